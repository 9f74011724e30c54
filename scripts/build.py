"""Build a training set from annotations.

build.py method=preference annotations=annotations.jsonl out=preference.jsonl
"""

from omegaconf import DictConfig

from nemo_mm_align.cli.command import command
from nemo_mm_align.datasets.build_stage import build_from_config


@command("build", types=("nemo_mm_align.datasets.build_stage:BuildFile",))
def main(config: DictConfig) -> None:
    """Read `annotations`, apply the rule of `method`, write `out` and ``<out>.summary.json``."""
    build_from_config(config)


if __name__ == "__main__":
    main()
