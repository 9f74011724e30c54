"""Check machine, ranks, paths, credentials and layout before a job: green, amber, red with remedies.

python scripts/doctor.py
torchrun --nproc-per-node 8 scripts/doctor.py experiment=dpo_llava15_13b_1x8 model.hf_path=... exp_manager.exp_dir=...
"""

from __future__ import annotations

import sys

from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.cli.command import command
from nemo_mm_align.cli.entry_point import leave_note
from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.outputs import file_to_write
from nemo_mm_align.core.repository import CONF
from nemo_mm_align.preflight.collectives import leave_hanging_group
from nemo_mm_align.preflight.doctor import DoctorSettings, Examination, examine
from nemo_mm_align.preflight.job import split_words

CONFIG = CONF / "doctor.yaml"
OWN, TRAINING = split_words(sys.argv[1:], set(OmegaConf.load(CONFIG)) | {"hydra", "judge"})


@command("doctor", types=("nemo_mm_align.preflight.doctor:DoctorSettings",))
def main(config: DictConfig) -> None:
    """Run all checks; the settings are explained in conf/doctor.yaml."""
    settings = read(DoctorSettings, OmegaConf.to_container(config, resolve=True))
    if settings.json_file:
        file_to_write(settings.json_file)
    outcome = examine(settings, TRAINING, publish, colour=sys.stdout.isatty())
    leave_hanging_group()
    sys.exit(outcome.code)


def publish(outcome: Examination) -> None:
    """Print the report; a red one also ends a job for good."""
    sys.stdout.write(f"{outcome.text}\n")
    sys.stdout.flush()
    if outcome.code:
        leave_note(outcome.text)


if __name__ == "__main__":
    sys.argv[1:] = OWN
    main()
