"""Small evaluations with known numbers: two tasks, three methods."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.cost import Cost
from nemo_mm_align.evaluation.measures import Measure
from nemo_mm_align.evaluation.metrics import SeedAnswers
from nemo_mm_align.evaluation.results import Reproduction, Results
from nemo_mm_align.evaluation.sources import SourceFile
from nemo_mm_align.evaluation.statistics import Statistic, ratio
from nemo_mm_align.evaluation.suite import TaskReport, write_suite
from nemo_mm_align.evaluation.summary import summarise
from nemo_mm_align.schema.records import write_records
from tests.unit.evaluation.judged import helpsteer

SCHEMA = helpsteer()
CATEGORIES = ("math", "writing")


class Unrated:
    """What both tasks have in common."""

    rated = False

    def reference(self, prompt):
        return ""

    def cautions(self, methods):
        return []

    def score(self, answered):
        raise NotImplementedError("their answers come scored")


class Dialogues(Unrated):
    """Scores of 1 to 10 by category, as a judge gives them."""

    name = "dialogues"
    measures = (
        Measure(name="score", label="Score (of 10)"),
        Measure(name="category", label="By category", grouped=True),
    )
    sources = (
        SourceFile("question.jsonl", "q", "a" * 64, published=True),
        SourceFile("judge_prompts.jsonl", "p", "b" * 64, published=False),
    )


class YesNo(Unrated):
    """F1 of yes and no: a figure that is no mean."""

    name = "yes_no"
    measures = (Measure(name="f1", label="F1"), Measure(name="accuracy", label="Accuracy", share=True))
    statistics = (Statistic("f1", ("twice_hit", "said_and_true"), ratio("twice_hit", "said_and_true")),)


def dialogue(number: int, score: float | None, **rest) -> ScoredAnswer:
    """A dialogue; every second is about math. No score: the judge failed."""
    common = {"prompt_id": f"d{number:02d}", "kind": "dialogues", "answer": f"answer {number}", "num_words": 5 + number}
    if score is None:
        return ScoredAnswer(**common, failed="unparsable", **rest)
    values = {"score": score, f"category.{CATEGORIES[number % 2]}": score}
    return ScoredAnswer(**common, values=values, **rest)


def yes_no(number: int, truth: bool, says: bool) -> ScoredAnswer:
    """An answer to one of six questions about each picture."""
    return ScoredAnswer(
        prompt_id=f"y{number:03d}",
        kind="questions",
        answer="Yes" if says else "No",
        group=f"picture {number // 6}",
        values={"accuracy": float(truth == says)},
        columns={"twice_hit": 2.0 * (truth and says), "said_and_true": float(truth) + says},
    )


def dialogues(change: Mapping[str, float], failed: int = 0) -> list[ScoredAnswer]:
    """Forty dialogues with scores of 4 to 8, changed by category; the first `failed` have none."""
    return [
        dialogue(number, None if number < failed else 4 + number % 5 + change.get(CATEGORIES[number % 2], 0))
        for number in range(40)
    ]


def questions(wrong: int) -> list[ScoredAnswer]:
    """Sixty questions, half of them true; to the first `wrong` of those the answer is no."""
    return [yes_no(number, number % 2 == 0, number % 2 == 0 and number >= 2 * wrong) for number in range(60)]


METHODS: Mapping[str, Mapping[str, Sequence[ScoredAnswer]]] = {
    "dialogues": {
        "base": dialogues({}),
        "dpo": dialogues({"writing": 1.5, "math": -1.0}),
        "steerlm": dialogues({"writing": 2.0}, failed=4),
    },
    "yes_no": {"base": questions(6), "dpo": questions(0), "steerlm": questions(6)},
}
TASKS = {"dialogues": Dialogues(), "yes_no": YesNo()}
COSTS = {
    "dialogues": Cost(130, {"rate_limit": 6, "unparsable": 4}, 50_000, 9_000, 1.25, "USD", 60.0),
    "yes_no": Cost(60, {}, 6_000, 60, 0.5, "USD", 12.4),
}


def results_of(task: str, methods: Mapping[str, Sequence[ScoredAnswer]], judge: str = "openai") -> Results:
    """What an evaluation of one task comes to."""
    target = f"{__name__}.{type(TASKS[task]).__name__}"
    said = Reproduction(
        command="evaluate it", task={"_target_": target}, judge=judge, judge_versions=["gpt-4o-2024-11-20"]
    )
    seeds = [SeedAnswers(seed=0, methods=methods)]
    return summarise(seeds, SCHEMA, TASKS[task], bootstrap=True, cost=COSTS[task], reproduction=said)


def evaluate(folder: Path, *names: str, judge: str = "openai", **changed: Sequence[ScoredAnswer]) -> Path:
    """Write a finished evaluation of some methods on both tasks; `changed` gives a method other dialogues."""
    reports = {}
    for task, every in METHODS.items():
        methods = {name: changed.get(name, every[name]) if task == "dialogues" else every[name] for name in names}
        reports[task] = TaskReport(results_of(task, methods, judge), SCHEMA, scored=methods)
        for name, answers in methods.items():
            write_records(folder / "judged" / task / f"{name}.jsonl", answers)
    write_suite(folder, reports)
    return folder
