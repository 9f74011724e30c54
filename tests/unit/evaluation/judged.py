"""Judged answers with known numbers, for the tests of the metrics and of the report."""

from collections.abc import Sequence

import numpy as np
from omegaconf import OmegaConf

from nemo_mm_align.core.repository import CONF
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.metrics import SeedAnswers, method_results
from nemo_mm_align.evaluation.results import MethodResult
from nemo_mm_align.miniature.judged import JudgedAnswer
from nemo_mm_align.miniature.task import MiniatureTask
from nemo_mm_align.schema.attributes import AttributeSchema


def ratings(correctness=4, verbosity=2, **others) -> dict[str, float]:
    return {
        "helpfulness": 3,
        "coherence": 4,
        "complexity": 1,
        **others,
        "correctness": correctness,
        "verbosity": verbosity,
    }


def helpsteer() -> AttributeSchema:
    values = OmegaConf.to_container(OmegaConf.load(CONF / "attribute_schema/helpsteer.yaml"))
    assert isinstance(values, dict)
    return AttributeSchema.model_validate({key: value for key, value in values.items() if key != "defaults"})


TASK = MiniatureTask(helpsteer())


def image_answer(number: int, **settings) -> ScoredAnswer:
    rated = {name: settings.pop(name) for name in ("correctness", "verbosity", "complexity") if name in settings}
    asked = settings.pop("asked", None)
    defaults = {"source": "easy_vqa", "num_words": 5, "answer": f"answer {number}"}
    judged = JudgedAnswer(
        prompt_id=f"image-{number:03d}", kind="image", ratings=ratings(**rated), **{**defaults, **settings}
    )
    return TASK.scored(judged, asked)


def text_answer(number: int, ok: bool) -> ScoredAnswer:
    return TASK.scored(JudgedAnswer(prompt_id=f"text-{number:03d}", kind="text", text_ok=ok, num_words=3))


def results_by_method(seeds: Sequence[SeedAnswers]) -> dict[str, MethodResult]:
    return method_results(seeds, TASK.measures)


def method_answers(share_correct: float, seed: int, prompts: int = 40) -> list[ScoredAnswer]:
    """Answers of which about `share_correct` are right, drawn with the seed: every fourth about something absent."""
    generator = np.random.default_rng(seed)
    answers = []
    for number in range(prompts):
        correct = bool(generator.random() < share_correct)
        settings = {"correctness": 4 if correct else 0, "verbosity": number % 3, "num_words": 3 + number % 5}
        if number % 2 == 0:
            settings["yes_no_correct"] = correct
        if number % 4 == 0:
            settings |= {"absent": True, "claims_presence": not correct}
        answers.append(image_answer(number, source=("easy_vqa", "charts")[number % 2], **settings))
    return answers + [text_answer(number, bool(generator.random() < share_correct)) for number in range(prompts // 2)]


def seed_answers(seed: int = 0, **shares: float) -> SeedAnswers:
    """One run with a method per share."""
    methods = {name: method_answers(share, seed * 10 + index) for index, (name, share) in enumerate(shares.items())}
    return SeedAnswers(seed=seed, methods=methods)
