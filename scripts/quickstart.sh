#!/usr/bin/env bash
# Makes the environment and runs the whole loop on the miniature world; arguments are overrides of conf/miniature.yaml.
#
#   bash scripts/quickstart.sh              one seed, about 11 minutes on two cores, results in quickstart/
#   bash scripts/quickstart.sh seeds=5      five seeds with intervals
#   bash scripts/quickstart.sh base=train   makes the base afresh first
#
# Killed or interrupted at any point and started again, it goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
overrides=("$@")
set -- # `source` without arguments would hand on ours
source scripts/environment.sh
exec python scripts/miniature.py "${overrides[@]}"
