"""Run the whole loop on the miniature world: sample, label, build, train four ways, steer, evaluate, report.

python scripts/miniature.py out=quickstart            # one seed, shipped base
python scripts/miniature.py out=study seeds=5 base=train
"""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.cli.command import command


@command("miniature", types=("nemo_mm_align.miniature.settings:MiniatureSettings",))
def main(config: DictConfig) -> None:
    """Run what is not done yet; conf/miniature.yaml explains the settings."""
    from nemo_mm_align.miniature.run import run_miniature  # not for --help

    run_miniature(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
