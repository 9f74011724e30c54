"""Quality of annotations, and their agreement with other judges, repetitions and people.

python scripts/agreement.py annotations=annotations.jsonl 'against=[annotations.repeat.jsonl, human.csv]'
"""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.cli.command import command
from nemo_mm_align.labeling.quality.stage import agreement_from_config


@command("agreement", types=("nemo_mm_align.labeling.quality.stage:AgreementSettings",))
def main(config: DictConfig) -> None:
    """Run the command; its settings are explained in conf/agreement.yaml."""
    agreement_from_config(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
