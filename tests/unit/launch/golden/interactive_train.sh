#!/bin/bash

# Stage train, written by scripts/launch.py; its settings are in first_train_hydra.yaml beside this file.

set -u

results=/shared/results/first
stop_file=$results/STOP
done_file=/shared/results/first/dpo/DONE

export CUDA_DEVICE_MAX_CONNECTIONS=1
export PYTHONPATH=/shared/nemo_mm_align${PYTHONPATH:+:$PYTHONPATH}
export NEMO_MM_ALIGN_STOP_FILE="$stop_file"

cd /shared/nemo_mm_align || exit 1
mkdir -p "$results"

# Touch this file from elsewhere and the ranks save and end.
rm -f "$stop_file"

# Machine, ranks, paths and layout first: red ends the job here.
python -u -m nemo_mm_align.launch.torchrun --standalone --nproc-per-node=8 scripts/doctor.py \
    'stages=[train]' data.train=/shared/results/first/training.jsonl \
    exp_manager.exp_dir=/shared/results/first name=dpo trainer.num_nodes=1 trainer.devices=8 \
    model.tensor_model_parallel_size=2 model.hf_path=/shared/llava recipe=dpo model=llava15_13b
code=$?
if [ "$code" -gt 0 ]; then
    echo "preflight failed with exit code $code; the stage was not started" >&2
    exit "$code"
fi

python -u -m nemo_mm_align.launch.torchrun --standalone --nproc-per-node=8 scripts/train.py \
    data.train=/shared/results/first/training.jsonl exp_manager.exp_dir=/shared/results/first \
    name=dpo trainer.num_nodes=1 trainer.devices=8 model.tensor_model_parallel_size=2 \
    model.hf_path=/shared/llava recipe=dpo model=llava15_13b
code=$?

# Finished: the training wrote its marker. Anything else is a failure, so that what depends on it does not start.
if [ -e "$done_file" ]; then
    exit 0
fi
exit $((code > 0 ? code : 1))
