#!/bin/bash

# Stage evaluate, written by scripts/launch.py; its settings are in first_evaluate_hydra.yaml beside this file.

set -u

results=/shared/results/first

export PYTHONPATH=/shared/nemo_mm_align${PYTHONPATH:+:$PYTHONPATH}

cd /shared/nemo_mm_align || exit 1
mkdir -p "$results"

# Machine, ranks, paths and layout first: red ends the job here.
python -u scripts/doctor.py 'stages=[evaluate]' judge=gemini asks_judge=true \
    'read=[/shared/heldout.jsonl]' 'write=[/shared/results/first]'
code=$?
if [ "$code" -gt 0 ]; then
    echo "preflight failed with exit code $code; the stage was not started" >&2
    exit "$code"
fi

python -u scripts/evaluate.py 'answers={dpo:/shared/results/first/answers.jsonl}' \
    prompts=/shared/heldout.jsonl out=/shared/results/first/evaluation
code=$?

# Finished: the script says so. Anything else is a failure, so that what depends on it does not start.
if [ "$code" -eq 0 ]; then
    exit 0
fi
exit $((code > 0 ? code : 1))
