"""Score held-out answers: answer files -> results.json and report.html.

python scripts/evaluate.py task=attributes judge=gemini prompts=heldout.jsonl "answers={base: base.jsonl, dpo: dpo.jsonl}" \\
    out=evaluation
"""

from __future__ import annotations

from contextlib import ExitStack

from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.cli.command import command
from nemo_mm_align.evaluation.stage import check_start, evaluate, settings_of
from nemo_mm_align.evaluation.tasks.task import build_task
from nemo_mm_align.labeling.rating import rated_by


@command("evaluate", types=("nemo_mm_align.evaluation.stage:EvaluateSettings",))
def main(config: DictConfig) -> None:
    """Run the stage; its settings are explained in conf/evaluate.yaml."""
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    settings = settings_of(values)  # type: ignore[arg-type]
    check_start(settings)
    task = build_task(values["task"], settings.attribute_schema)
    with ExitStack() as stack:
        rate = None
        if getattr(task, "rated", False):
            ledger = settings.out.with_name(f"{settings.out.name}.ledger.jsonl")
            schema = settings.attribute_schema
            rate = stack.enter_context(rated_by(values["judge"], schema, ledger, settings.runner, settings.budget))
        evaluate(settings, task, rate)


if __name__ == "__main__":
    main()
