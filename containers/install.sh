#!/usr/bin/env bash
# The steps inside the image's build. Each one checks at its end that no package of the base image has changed.
#
#   install.sh dependencies    what the base image lacks, in the pinned versions
#   install.sh project         nemo_mm_align itself, then a smoke test of its imports that names the fused kernels
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# `python -m pip`: NeMo images hold two Pythons, a virtual environment first on PATH and the system's; this is the first.
pip=(python -m pip --no-input --disable-pip-version-check)
base=/opt/nemo_mm_align/base-versions.txt

# NVIDIA's images set PIP_CONSTRAINT to a list of their own, which also applies to the build environments of other
# packages and makes them fail. The list frozen below holds every installed package, so nothing is lost without it.
unset PIP_CONSTRAINT
export PIP_ROOT_USER_ACTION=ignore

dependencies() {
    local wanted
    python containers/versions.py freeze "$base"
    wanted=$(mktemp)
    python containers/versions.py missing containers/requirements.txt > "$wanted"
    echo "The base image lacks: $(tr '\n' ' ' < "$wanted")"
    if [ -s "$wanted" ]; then "${pip[@]}" install --no-cache-dir -r "$wanted" -c "$base"; fi
    rm -f "$wanted"
    python containers/versions.py unchanged "$base"
}

project() {
    "${pip[@]}" install --no-cache-dir --no-deps --no-build-isolation --editable .
    python containers/versions.py unchanged "$base"
    python containers/versions.py freeze /opt/nemo_mm_align/image-versions.txt
    smoke_test
    # Caches that any user may write to, and the smoke test's own removed.
    rm -rf /opt/cache
    install -d -m 1777 /opt/cache /opt/cache/{huggingface,triton,inductor,matplotlib} /workspace
}

smoke_test() {
    python -W ignore - <<'PYTHON'
import torch

import nemo_mm_align.evaluation.stage
import nemo_mm_align.inference.run
import nemo_mm_align.labeling.stage
import nemo_mm_align.preflight.doctor
import nemo_mm_align.training.trainer
from nemo.core.config import hydra_runner
from nemo_mm_align.parallel import kernels

print(f"nemo_mm_align {nemo_mm_align.__version__} on torch {torch.__version__} (CUDA {torch.version.cuda})")
print(kernels.report())
broken = [found for found in kernels.installed(import_them=True) if found.error and found.package.name != "flash-attn"]
if broken:
    raise SystemExit(f"does not import: {', '.join(f'{found.package.name} ({found.error})' for found in broken)}")
PYTHON
}

case "${1:-}" in
    dependencies) dependencies ;;
    project) project ;;
    *) echo "install.sh: dependencies or project" >&2; exit 2 ;;
esac
