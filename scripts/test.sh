#!/usr/bin/env bash
# Makes the test environment and runs every check: lint, format, types, tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
pytest_arguments=("$@")
set -- # `source` without arguments would hand on ours
source scripts/environment.sh --dev

export OMP_NUM_THREADS=1 TORCHDYNAMO_DISABLE=1 TOKENIZERS_PARALLELISM=false
ruff check .
ruff format --check .
mypy nemo_mm_align
python -m pytest "${pytest_arguments[@]}"
