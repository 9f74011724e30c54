import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.results import read_results
from nemo_mm_align.evaluation.settings import EvaluateSettings
from nemo_mm_align.evaluation.stage import evaluate
from nemo_mm_align.evaluation.tasks.rated import CORRECT, JUDGED, score_measure, values_of
from nemo_mm_align.evaluation.tasks.task import Answered
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Candidate, CandidateSet, Prompt, Turn, read_records, write_records
from tests.unit.evaluation.judged import ratings

COUNT = 6


class NumberTask:
    """An answer is correct if it says the prompt's number; its verbosity is its number of words."""

    name = "numbers"

    def __init__(self, schema: AttributeSchema) -> None:
        self.schema, self.measures = schema, (score_measure(schema), CORRECT, JUDGED)

    def score(self, answered) -> list[ScoredAnswer]:
        return [self._scored(one) for one in answered]

    def _scored(self, one: Answered) -> ScoredAnswer:
        words = one.text.split()
        rated = ratings(correctness=4 if one.prompt.metadata["truth"] in words else 0, verbosity=min(4, len(words)))
        values = values_of(rated, self.schema, one.prompt.id)
        asked = dict(one.asked) if one.asked else None
        return ScoredAnswer(prompt_id=one.prompt.id, answer=one.text, values=values, ratings=rated, asked=asked)

    def reference(self, prompt: Prompt) -> str:
        return prompt.id

    def cautions(self, methods) -> list[str]:
        return ["Beware."]


@pytest.fixture
def world(tmp_path, helpsteer):
    """A folder with prompts and images, and settings to evaluate answers to them."""
    (tmp_path / "images").mkdir()
    prompts = []
    for number in range(COUNT):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(tmp_path / "images" / f"{number}.png")
        turn = Turn(role="user", content="<image>\nWhich number?")
        metadata = {"truth": str(number)}
        prompts.append(Prompt(id=f"p{number}", images=(f"images/{number}.png",), turns=(turn,), metadata=metadata))
    write_records(tmp_path / "prompts.jsonl", prompts)

    def settings(**changes):
        defaults = {"prompts": tmp_path / "prompts.jsonl", "out": tmp_path / "out", "attribute_schema": helpsteer}
        return EvaluateSettings(**{**defaults, **changes})

    return tmp_path, settings


def answers(path, texts, attributes=None):
    sampling = {"temperature": 0.0} | ({"attributes": attributes} if attributes else {})
    lines = [
        CandidateSet(prompt_id=f"p{number}", candidates=(Candidate(text=text, num_tokens=3),), sampling=sampling)
        for number, text in enumerate(texts)
    ]
    write_records(path, lines)
    return path


def test_answer_files_to_results_and_report(world, helpsteer):
    folder, settings = world
    base = answers(folder / "base.jsonl", ["0"] * COUNT)
    dpo = answers(folder / "dpo.jsonl", [str(number) for number in range(COUNT)])
    steering = [
        answers(folder / f"{asked}.jsonl", ["word " * (asked + 1)] * COUNT, {"verbosity": asked}) for asked in (0, 2, 4)
    ]
    evaluate(
        settings(answers={"base": base, "dpo": dpo}, steering=steering, samples=2), {"numbers": NumberTask(helpsteer)}
    )
    results = read_results(folder / "out" / "results.json")
    assert results.methods["base"].value("correctness") == pytest.approx(1 / COUNT)
    assert results.methods["dpo"].value("correctness") == 1
    assert results.methods["dpo"].measurements["score"].minus_base == pytest.approx(4 * (COUNT - 1) / COUNT)
    assert results.steering["verbosity"].spearman == pytest.approx(1)
    assert [point.judged for point in results.steering["verbosity"].curve] == [1, 3, 4]
    judged = list(read_records(folder / "out" / "judged" / "dpo.jsonl", ScoredAnswer))
    assert [answer.answer for answer in judged] == [str(number) for number in range(COUNT)]
    report = (folder / "out" / "report.html").read_text()
    assert report.count("data:image/png") == 2 and "Beware." in report and results.prompts == {"prompts": COUNT}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scored: scored[1:], f"was given {COUNT} answers and scored {COUNT - 1}"),
        (lambda scored: scored[::-1], "or in another order. Return one ScoredAnswer for each"),
        (
            lambda scored: [with_value(scored[0], exakt=1.0), *scored[1:]],
            "prompt p0 has a value of exakt; its measures are",
        ),
        (
            lambda scored: [with_value(scored[0], correctness=0.8), *scored[1:]],
            "correctness=0.8 is not 0 or 1, being a share",
        ),
        (lambda scored: [with_value(scored[0], score=math.nan), *scored[1:]], "p0: score=nan is not a finite number"),
    ],
)
def test_a_task_keeps_to_its_measures(world, helpsteer, monkeypatch, change, message):
    folder, settings = world
    score = NumberTask.score
    monkeypatch.setattr(NumberTask, "score", lambda self, answered: change(score(self, answered)))
    with pytest.raises(UserError, match=re.escape(message)):
        evaluate(
            settings(answers={"base": answers(folder / "base.jsonl", ["0"] * COUNT)}),
            {"numbers": NumberTask(helpsteer)},
        )
    assert not (folder / "out").exists()


def with_value(scored, **values):
    return scored.model_copy(update={"values": {**scored.values, **values}})


def test_steered_method_says_what_was_asked(world, helpsteer):
    folder, settings = world
    path = answers(folder / "steerlm.jsonl", ["0"] * COUNT, {"verbosity": 1})
    results = evaluate(settings(answers={"steerlm": path}), {"numbers": NumberTask(helpsteer)})["numbers"]
    assert results.methods["steerlm"].asked == {"verbosity": 1}
    assert "asked Verbosity:1" in (folder / "out" / "report.html").read_text()


def test_faulty_answer_files_are_named_and_nothing_is_written(world, helpsteer):
    folder, settings = world

    def refuses(message, *lines):
        path = folder / "bad.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        with pytest.raises(UserError, match=message):
            evaluate(settings(answers={"base": path}), {"numbers": NumberTask(helpsteer)})
        assert not (folder / "out").exists()

    line = {"prompt_id": "p0", "candidates": [{"text": "0"}]}
    refuses(r"bad\.jsonl: no answer to 5 of 6 prompts, for example p1", line)
    refuses(r"bad\.jsonl: answers prompt p9, which is not in .*prompts.jsonl", {**line, "prompt_id": "p9"})
    refuses(r"bad\.jsonl: prompt p0 has 2 candidates", {**line, "candidates": [{"text": "0"}, {"text": "1"}]})
    refuses(r"bad\.jsonl:1: .*text: Field required", {**line, "candidates": [{"txt": "0"}]})
    complete = [{**line, "prompt_id": f"p{number}"} for number in range(COUNT)]
    refuses("prompt p0 is answered twice", *complete, complete[0])


def test_unknown_attribute_in_a_steered_file(world, helpsteer):
    folder, settings = world
    path = answers(folder / "base.jsonl", ["0"] * COUNT, {"wit": 4})
    with pytest.raises(UserError, match="unknown attribute 'wit'"):
        evaluate(settings(answers={"base": path}), {"numbers": NumberTask(helpsteer)})


class FieldTask(NumberTask):
    """Writes a file that others read."""

    def read_answers(self, path) -> None:
        return None

    def field_files(self, name, scored) -> dict[str, str]:
        return {f"{name}/answers.txt": "".join(f"{one.answer}\n" for one in scored)}


def test_files_of_methods_that_are_no_longer_evaluated_are_removed_and_nothing_else(world, helpsteer, caplog):
    folder, settings = world
    base, dpo, sft = (answers(folder / f"{name}.jsonl", [name] * COUNT) for name in ("base", "dpo", "sft"))
    out, task = folder / "out", {"numbers": FieldTask(helpsteer)}

    def lie_there() -> set[str]:
        parts = (out / "judged", out / "field")
        return {str(path.relative_to(out)) for part in parts for path in part.rglob("*") if path.is_file()}

    evaluate(settings(answers={"base": base, "dpo": dpo, "sft": sft}), task)
    names = ("base", "dpo", "sft")
    assert lie_there() == {f"judged/{name}.jsonl" for name in names} | {
        f"field/numbers/{name}/answers.txt" for name in names
    }
    (out / "judged/mine.jsonl").write_text("mine")
    (out / "field/numbers/sft/answers.txt").write_text("corrected by hand")
    evaluate(settings(answers={"base": base}), task)
    assert lie_there() == {
        "judged/base.jsonl", "judged/mine.jsonl", "field/numbers/base/answers.txt", "field/numbers/sft/answers.txt",
    }  # fmt: skip
    assert not (out / "field/numbers/dpo").exists()
    assert "field/numbers/sft/answers.txt: of an earlier evaluation and changed since; it stays" in caplog.text


def test_old_figures_do_not_stand_beside_new_answers(world, helpsteer):
    folder, settings = world
    base = answers(folder / "base.jsonl", ["0"] * COUNT)
    evaluate(settings(answers={"base": base}), {"numbers": FieldTask(helpsteer)})

    class Broken(FieldTask):
        def field_files(self, name, scored) -> dict[str, str]:
            raise UserError("no room")

    with pytest.raises(UserError, match="no room"):
        evaluate(settings(answers={"base": base}), {"numbers": Broken(helpsteer)})
    assert not (folder / "out/results.json").exists()


def test_a_model_that_is_asked_for_some_attributes_stands_by_its_answers_at_their_defaults(world, helpsteer):
    """A sweep alone, of a model whose schema asks for complexity and verbosity; this run's schema asks for all five."""
    folder, settings = world
    low, at_default = {"complexity": 2, "verbosity": 0}, {"complexity": 2, "verbosity": 2}
    files = [
        answers(folder / "low.jsonl", [f"{number}" for number in range(COUNT)], low),
        answers(folder / "default.jsonl", [f"it is {number}" for number in range(COUNT)], at_default),
    ]
    evaluate(settings(steering={"mine": files}), {"numbers": NumberTask(helpsteer)})
    results = read_results(folder / "out/results.json")
    assert results.methods["mine"].value("judged.verbosity") == 3, "the three words that stand at the defaults"
    with pytest.raises(
        UserError, match="defaults of attribute_schema=helpsteer; give the model's own attribute_schema"
    ):
        evaluate(settings(steering={"mine": files[:1]}), {"numbers": NumberTask(helpsteer)})
