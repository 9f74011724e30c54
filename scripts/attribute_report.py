"""How good a model tells the attributes of answers, against the judge that it learned from.

python scripts/attribute_report.py judged=rated.heldout.jsonl predicted=annotations.jsonl probe=probe.jsonl out=report.html
"""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.cli.command import command


@command("attribute_report", types=("nemo_mm_align.evaluation.attribute_report.settings:ReportSettings",))
def main(config: DictConfig) -> None:
    """Write the page and its numbers; conf/attribute_report.yaml explains the settings."""
    from nemo_mm_align.evaluation.attribute_report.stage import (
        report_from_config,
    )  # matplotlib: a second of a run's start

    report_from_config(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
