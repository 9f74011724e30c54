"""Check machine, ranks, paths, credentials and layout before a job: green, amber, red with remedies.

python scripts/doctor.py
torchrun --nproc-per-node 8 scripts/doctor.py experiment=dpo_llava15_13b_1x8 model.hf_path=... exp_manager.exp_dir=...
"""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.cli import user_errors
from nemo_mm_align.preflight.collectives import leave_hanging_group
from nemo_mm_align.preflight.doctor import examine
from nemo_mm_align.preflight.job import split_words

CONFIG = Path(__file__).resolve().parents[1] / "conf" / "doctor.yaml"
OWN, TRAINING = split_words(sys.argv[1:], set(OmegaConf.load(CONFIG)) | {"hydra", "judge"})


@hydra.main(version_base=None, config_path="../conf", config_name="doctor")
@user_errors
def main(config: DictConfig) -> None:
    """Run all checks; the settings are explained in conf/doctor.yaml."""
    values = OmegaConf.to_container(config, resolve=True)
    outcome = examine(values, TRAINING, colour=sys.stdout.isatty())  # type: ignore[arg-type]
    if outcome.text:
        sys.stdout.write(f"{outcome.text}\n")
    leave_hanging_group()
    sys.exit(outcome.code)


if __name__ == "__main__":
    sys.argv[1:] = OWN
    main()
