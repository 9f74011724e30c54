#!/usr/bin/env bash
# Starts the server in its container, or wherever the project lies: arguments are settings of conf/serve.yaml.
#
#   serve.sh checkpoint=/models/steerlm                                      one process
#   RANKS=2 serve.sh checkpoint=/models/steerlm tensor_model_parallel_size=2  as many, on this machine
#
# The last argument wins: host=0.0.0.0 is only the default here, since nobody reaches a container's 127.0.0.1.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
ranks=${RANKS:-1}
case $ranks in
    '' | *[!0-9]* | 0) echo "RANKS=$ranks: give the number of processes, tensor times pipeline parallel size" >&2; exit 2 ;;
esac
if [ "$ranks" = 1 ]; then exec python scripts/serve.py host=0.0.0.0 "$@"; fi
exec torchrun --standalone --nproc-per-node "$ranks" scripts/serve.py host=0.0.0.0 "$@"
