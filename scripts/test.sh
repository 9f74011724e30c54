#!/usr/bin/env bash
# Makes the test environment and runs every check: lint, format, types, tests. Arguments go to pytest; `test.sh fast` runs lint,
# format, types and the tests of single parts alone, in minutes.
# Without any, two workers share the test files, since most tests wait for processes to start; the real Slurm then has the
# machine to itself.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
pytest_arguments=("$@")
set -- # `source` without arguments would hand on ours
source scripts/environment.sh --dev

export OMP_NUM_THREADS=1 TORCHDYNAMO_DISABLE=1 TOKENIZERS_PARALLELISM=false
ruff check .
ruff format --check .
mypy nemo_mm_align
if [ "${pytest_arguments[*]}" = fast ]; then
    exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not parallel and not e2e" tests/unit tests/golden
fi
if [ "${#pytest_arguments[@]}" -gt 0 ]; then
    exec python -m pytest "${pytest_arguments[@]}"
fi
status=0
python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --ignore=tests/slurm || status=$?
python -m pytest tests/slurm || status=$?
exit "$status"
