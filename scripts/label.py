"""Score the candidates of each prompt with a judge: prompts + candidates -> annotations.

python scripts/label.py judge=gemini prompts=prompts.jsonl candidates=candidates.jsonl out=annotations.jsonl
"""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.cli.command import command
from nemo_mm_align.labeling.stage import label_from_config


@command("label", types=("nemo_mm_align.labeling.stage:LabelSettings",))
def main(config: DictConfig) -> None:
    """Run the stage; its settings are explained in conf/label.yaml."""
    label_from_config(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
