#!/usr/bin/env bash
# Builds the documentation as a site in docs/_build/html; a warning is an error.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
set -- # `source` without arguments would hand on ours
source scripts/environment.sh --dev
exec python -m sphinx -W --keep-going -q -b html docs docs/_build/html
