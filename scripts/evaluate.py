"""Judge held-out answers of the miniature world: answer files -> results.json and report.html.

python scripts/evaluate.py prompts=heldout.jsonl "answers={base: base.jsonl, dpo: dpo.jsonl}" out=evaluation
"""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.command import command
from nemo_mm_align.evaluation.stage import evaluate_from_config
from nemo_mm_align.miniature.judged import judge_answer
from nemo_mm_align.miniature.truth import truth_of


@command("evaluate", types=("nemo_mm_align.evaluation.stage:EvaluateSettings",))
def main(config: DictConfig) -> None:
    """Run the stage; its settings are explained in conf/evaluate.yaml."""
    settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    evaluate_from_config(settings, judge_answer, lambda prompt: truth_of(prompt).expected)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
