#!/bin/bash
#SBATCH --job-name=first_train
#SBATCH --partition=batch
#SBATCH --account=vision
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=1-00:00:00
#SBATCH --output=/shared/results/first/log-first_train_%j.out
#SBATCH --error=/shared/results/first/log-first_train_%j.err
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
#SBATCH --kill-on-invalid-dep=yes

# Stage train, written by scripts/launch.py; its settings are in first_train_hydra.yaml beside this file.

set -u

results=/shared/results/first
stop_file=$results/STOP
done_file=/shared/results/first/dpo/DONE

export CUDA_DEVICE_MAX_CONNECTIONS=1
export PYTHONPATH=/shared/nemo_mm_align${PYTHONPATH:+:$PYTHONPATH}
export NEMO_MM_ALIGN_STOP_FILE="$stop_file"

max_requeues=5
restarts=${SLURM_RESTART_COUNT:-0}

# Where the ranks meet: the first node's address (its name where the site hides addresses), and another port after each
# restart, since what is left of the former start may still hold the old one.
first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_ADDR=$(scontrol show node "$first_node" 2>/dev/null | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p' | head -n 1)
export MASTER_ADDR=${MASTER_ADDR:-$first_node}
export MASTER_PORT=$((15000 + (SLURM_JOB_ID * 16 + restarts) % 16000))

cd /shared/nemo_mm_align || exit 1

mkdir -p "$results"
fault_file=$results/FAULT
export NEMO_MM_ALIGN_FAULT_FILE="$fault_file"
rm -f "$fault_file"

# One job of this name runs at a time: a start of it may go on in a folder that a lost one on another node has left.
export NEMO_MM_ALIGN_JOB="${SLURM_CLUSTER_NAME:-}/${SLURM_JOB_USER:-}/${SLURM_JOB_NAME:-}"

# Slurm sends USR1 before the time limit: the ranks look for this file, save and end.
rm -f "$stop_file"
out_of_time=no
trap 'interrupted=yes; out_of_time=yes; echo "asked to stop"; touch "$stop_file"' USR1

# Runs a command in the background and waits for it: bash runs a trap only between commands, but `wait` ends at once
# for one; the command goes on meanwhile.
run() {
    local code
    "$@" &
    task=$!
    while true; do
        interrupted=no
        wait "$task"
        code=$?
        [ "$interrupted" = yes ] || return "$code"
    done
}

run srun --kill-on-bad-exit=1 --mpi=none python -u scripts/train.py \
    data.train=/shared/results/first/training.jsonl exp_manager.exp_dir=/shared/results/first \
    name=dpo trainer.num_nodes=2 trainer.devices=8 model.tensor_model_parallel_size=2 \
    model.hf_path=/shared/llava recipe=dpo model=llava15_13b
code=$?

# A mistake that no restart mends; the error stands in this file. Exit codes do not tell: the ranks that are killed when
# one has failed leave higher ones.
if [ -e "$fault_file" ]; then
    exit 2
fi
# Finished, however it ended.
if [ -e "$done_file" ]; then
    exit 0
fi
# Somebody else made the file: the run shall end here, not start again.
if [ "$out_of_time" = no ] && [ -e "$stop_file" ]; then
    echo "stopped by $stop_file; the same launch goes on from here" >&2
    exit $((code > 0 ? code : 1))
fi
# Not finished: start again, as the same job, so that what depends on it waits. Slurm ends this shell; leaving it before
# would end the job.
if [ "$restarts" -lt "$max_requeues" ]; then
    echo "not finished (exit code $code): requeue $((restarts + 1)) of $max_requeues"
    scontrol requeue "$SLURM_JOB_ID" && sleep 600
fi
echo "not finished after $restarts restarts (exit code $code); the same launch goes on from here" >&2
exit $((code > 0 ? code : 1))
