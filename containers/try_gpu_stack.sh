#!/usr/bin/env bash
# The stack of a GPU machine tried without a GPU: Python 3.12, torch 2.11 (CUDA), TransformerEngine 2.11 and megatron-core
# 0.16.1 in an environment of their own, with what tests/gpu and nemo_mm_align.benchmarks.gpu need and nothing else. Proven
# there: every number format is constructed with TransformerEngine's layers, LoRA on top, with the names and checkpoint keys of
# the local ones; without a driver training steps, answers and all steps of the benchmark run at toy size; tests/gpu collects.
#
#   WHEELS=folder bash containers/try_gpu_stack.sh
#
# Opt-in: about 2.7 GB are downloaded and 5.5 GB of disk used, the first time; 4 minutes, 2 with what is there. WHEELS holds wheels for Python 3.12 that are
# taken as they are, transformer_engine_torch at least: PyPI has its source alone, which wants nvcc. VENV=folder (default:
# .venv-gpu) and PYTHON=program choose place and interpreter. Where packages come from is pip's business.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

unset PYTHONPATH # packages of another environment

fail() { echo "try_gpu_stack.sh: $*" >&2; exit 2; }

python=${PYTHON:-python3.12} venv=${VENV:-.venv-gpu}
[ $# -eq 0 ] || fail "takes no arguments; WHEELS, VENV and PYTHON are variables."
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2> /dev/null ||
    fail "Python 3.12 is needed, as the wheels are built for it: PYTHON=/path/to/python3.12."

packages=(
    torch==2.11.0 'transformer-engine[pytorch]==2.11.0' megatron-core==0.16.1
    numpy packaging psutil pydantic pyyaml pillow safetensors tqdm pytest
)
stamp=$venv/nemo_mm_align.stamp
if [ "$(cat "$stamp" 2> /dev/null)" != "${packages[*]}" ]; then
    if [ -e "$venv" ] && [ ! -e "$stamp" ] && [ -n "$(ls -A "$venv")" ]; then
        fail "$venv exists and was not made by this script; remove it, or set VENV to another folder."
    fi
    engine=("${WHEELS:-/nowhere}"/transformer_engine_torch-2.11.0-*.whl)
    [ -e "${engine[0]}" ] || fail "no wheel of transformer_engine_torch 2.11.0 in WHEELS=${WHEELS:-}: PyPI has its source" \
        "alone, which needs nvcc; make one on a machine with CUDA's compiler, torch 2.11.0 and Python 3.12 (pip wheel" \
        "--no-deps --no-build-isolation transformer_engine_torch==2.11.0) and give its folder."
    mkdir -p "$venv"
    free=$(df --output=avail -k "$venv" | tail -n 1)
    [ "$free" -gt 10000000 ] || fail "$((free / 1000000)) GB are free at $venv, about 10 are needed; set VENV."
    echo "Making $venv: about 2.7 GB to download (torch 2.11.0 with CUDA 13), 5.5 GB on disk ..."
    rm -rf "$venv" && mkdir -p "$venv" && : > "$stamp"
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet "${packages[0]}"
    "$venv/bin/python" -m pip install --quiet --no-deps "$WHEELS"/*.whl
    "$venv/bin/python" -m pip install --quiet "${packages[@]}"
    "$venv/bin/python" -m pip check
    echo "${packages[*]}" > "$stamp"
fi

export PYTHONPATH=$PWD CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
python=$venv/bin/python
echo "1/2 TransformerEngine's layers, and what needs no driver"
"$python" -m pytest tests/stack -q -rs -s -p no:cacheprovider --disable-warnings
echo "2/2 the GPU's benchmark at toy size"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
"$python" -m nemo_mm_align.benchmarks.gpu size=toy "out=$out" > "$out/printed" || { tail -n 40 "$out/log.txt" >&2; exit 1; }
"$python" - "$out/results.jsonl" << 'PYTHON'
import json
import sys

lines = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
bad = [f"{line['step']}, {line['name']}: {line.get('error') or line['exit_code']}" for line in lines if line.get("error") or line.get("exit_code")]
print(f"{sum('skipped' not in line for line in lines)} cases, {sum('skipped' in line for line in lines)} skipped")
sys.exit("\n".join(bad) or None)
PYTHON
echo "try_gpu_stack.sh: all as it should be"
