"""Turn downloaded data into prompts, annotations or training records.

prepare.py source=lrv data=filter_cap1.json image_root=images out=prompts.jsonl
"""

from omegaconf import DictConfig

from nemo_mm_align.cli.command import command
from nemo_mm_align.datasets.prepare.stage import prepare_from_config


@command("prepare", types=("nemo_mm_align.datasets.prepare.settings:PrepareSettings",))
def main(config: DictConfig) -> None:
    """Read `data` as `source` says, write `out`, ``<out>.summary.json`` and, where there are any, ``<out>.faults.jsonl``."""
    prepare_from_config(config)


if __name__ == "__main__":
    main()
