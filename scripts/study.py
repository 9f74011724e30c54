"""Compare methods, losses and ablations on the miniature world over seeds, in slices: when to use which.

python scripts/study.py out=study                  # started again, it goes on where it was
python scripts/study.py out=study minutes=50       # a slice
python scripts/study.py out=study report=only
"""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.cli.command import command


@command("study", types=("nemo_mm_align.miniature.study.settings:StudySettings",))
def main(config: DictConfig) -> None:
    """Run the cells that have no figures yet and report; conf/study.yaml explains the settings."""
    from nemo_mm_align.miniature.study.run import run_study  # not for --help

    run_study(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
