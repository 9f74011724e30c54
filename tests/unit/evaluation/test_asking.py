"""A judge asked tasks' own questions: once each, failures missing, kept replies read anew by the rule of today."""

import json
import re
import threading
from pathlib import Path

import pytest
from PIL import Image

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.asking import NOT_ASKED, AskingSettings, QuestionAsker
from nemo_mm_align.evaluation.judges import Judges
from nemo_mm_align.evaluation.judging import TaskQuestion
from nemo_mm_align.evaluation.question_calls import Asked, QuestionLedger
from nemo_mm_align.evaluation.tasks.task import build_task
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.llm.price import Price
from nemo_mm_align.llm.question import Answer, Question, QuestionImage
from nemo_mm_align.llm.running.budget import BudgetSettings
from nemo_mm_align.llm.running.runner import RunnerSettings


class Model:
    """Answers with the number in the question, or as a rule says; what it was asked is remembered."""

    price = Price(currency="USD", input_per_million=1.0, output_per_million=2.0)
    max_output_tokens = 100

    def __init__(self, reply=None, name="model", settings=None) -> None:
        self.reply, self.name, self.settings = reply or self.number, name, settings or {"model": name}
        self.asked: list[str] = []
        self._lock = threading.Lock()

    @staticmethod
    def number(text: str, times: int) -> str:
        return f"Rating: [[{re.findall(r'[0-9]+', text)[-1]}]]"

    def ask(self, question: Question) -> Answer:
        text = "".join(part for part in question.parts if isinstance(part, str))
        with self._lock:
            self.asked.append(text)
            times = self.asked.count(text)
        return Answer(self.reply(text, times), {"input_tokens": 10, "output_tokens": 3}, f"{self.name}-1")

    def hide(self, text: str) -> str:
        return text


def read(answer: Answer) -> dict[str, float]:
    found = re.search(r"\[\[(\d+)\]\]", answer.text)
    if found is None:
        raise CallFailure("unparsable", "no rating", answer.text)
    return {"rating": float(found[1])}


def questions(*texts: str, rule=read) -> list[Asked]:
    return [Asked("t", f"p{place}", TaskQuestion("q", Question("", (text,)), rule)) for place, text in enumerate(texts)]


def asker(folder: Path, model: Model, **changes) -> QuestionAsker:
    settings = {"runner": RunnerSettings(backoff_s=0.0, max_attempts=2, concurrency=2), **changes}
    return QuestionAsker(model, folder / "q.ledger.jsonl", AskingSettings(**settings))


def test_each_question_is_asked_once_whoever_wants_its_answer(tmp_path):
    model = Model()
    judged, spent = asker(tmp_path, model).ask(questions("rate 7", "rate 3", "rate 7"))
    assert [one.value("rating") for one in judged] == [7, 3, 7]
    assert sorted(model.asked) == ["rate 3", "rate 7"]
    assert (spent.replies, spent.input_tokens, spent.output_tokens, spent.failures) == (2, 20, 6, {})
    assert spent.model_versions == ("model-1",) and spent.money(model.price) == pytest.approx(32e-6)
    again = Model()
    judged, spent = asker(tmp_path, again).ask(questions("rate 7", "rate 4"))
    assert [one.value("rating") for one in judged] == [7, 4] and again.asked == ["rate 4"]
    assert spent.replies == 2  # of these two questions, whichever run asked


def test_one_ledger_is_open_for_all_tasks_and_none_before_a_question(tmp_path):
    path, model = tmp_path / "q.ledger.jsonl", Model()
    with asker(tmp_path, model) as opened:
        opened.ask([])
        assert not path.exists()
        opened.ask(questions("rate 7"))
        with pytest.raises(UserError, match="another run is writing"):
            QuestionLedger(path)
        judged, spent = opened.ask(questions("rate 3", "rate 7"))
        assert [one.value("rating") for one in judged] == [3, 7] and model.asked == ["rate 7", "rate 3"]
        assert (spent.replies, spent.input_tokens) == (2, 20)
    QuestionLedger(path).close()


def test_a_kept_reply_is_read_once(tmp_path):
    texts, replies = ("rate 7", "rate 3"), []

    def counted(answer: Answer) -> dict[str, float]:
        replies.append(answer.text)
        return read(answer)

    asker(tmp_path, Model()).ask(questions(*texts))
    asker(tmp_path, Model()).ask(questions(*texts, rule=counted))
    assert replies == ["Rating: [[7]]", "Rating: [[3]]"]


def test_another_judge_or_other_settings_are_asked_anew(tmp_path):
    asker(tmp_path, Model()).ask(questions("rate 7"))
    other = Model(settings={"model": "model", "temperature": 1})
    asker(tmp_path, other).ask(questions("rate 7"))
    assert other.asked == ["rate 7"]


def test_the_bytes_of_an_image_are_part_of_the_question(tmp_path):
    path, model = tmp_path / "a.png", Model()
    for shade in (0, 0, 9):
        Image.new("RGB", (4, 4), (shade, 0, 0)).save(path)
        question = Question("", ("rate 5", QuestionImage(path)))
        asker(tmp_path, model).ask([Asked("t", "p", TaskQuestion("q", question, read))])
    assert len(model.asked) == 2


def test_a_missing_image_is_said_before_anything_is_asked(tmp_path):
    model, question = Model(), Question("", ("rate 5", QuestionImage(tmp_path / "none.png")))
    with pytest.raises(UserError, match=r"none\.png"):
        asker(tmp_path, model).ask([*questions("rate 1"), Asked("t", "p", TaskQuestion("q", question, read))])
    assert not model.asked


def test_a_failed_judgement_is_missing_and_kept_with_its_reply(tmp_path):
    model = Model(lambda text, times: "I would rather not." if "3" in text else "Rating: [[7]]")
    judged, spent = asker(tmp_path, model).ask(questions("rate 7", "rate 3"))
    assert judged[0].value("rating") == 7 and not judged[1].values and judged[1].failure == "unparsable"
    assert spent.failures == {"unparsable": 2} and spent.calls == 3
    with QuestionLedger(tmp_path / "q.ledger.jsonl", read_only=True) as ledger:
        failed = [attempt for attempt in ledger.attempts() if attempt.status == "failed"]
    assert {attempt.raw for attempt in failed} == {"I would rather not."}
    with pytest.raises(KeyError):
        judged[1].value("rating")


def test_repeat_gives_median_and_spread(tmp_path):
    model = Model(lambda text, times: f"[[{(0, 2, 9, 4)[times]}]]")
    judged, spent = asker(tmp_path, model, repeat=3, runner=RunnerSettings(concurrency=1)).ask(questions("rate"))
    assert judged[0].value("rating") == 4 and judged[0].spread("rating") == 7 and spent.replies == 3
    more = Model(lambda text, times: "[[8]]")
    asker(tmp_path, more, repeat=4).ask(questions("rate"))
    assert len(more.asked) == 1  # the fourth


def test_a_changed_rule_reads_kept_replies_anew_and_asks_only_where_it_cannot(tmp_path):
    asker(tmp_path, Model(lambda text, times: "[[7]] of ten" if "x" in text else "[[7]]")).ask(
        questions("rate x", "rate y")
    )

    def stricter(answer: Answer) -> dict[str, float]:
        if not answer.text.endswith("]]"):
            raise CallFailure("unparsable", "must end with the rating", answer.text)
        return {"rating": read(answer)["rating"] * 10}

    model = Model(lambda text, times: "[[6]]")
    judged, _ = asker(tmp_path, model).ask(questions("rate x", "rate y", rule=stricter))
    assert model.asked == ["rate x"]
    assert [one.value("rating") for one in judged] == [60, 70]
    judged, _ = asker(tmp_path, Model()).ask(questions("rate x", "rate y"))
    assert [one.value("rating") for one in judged] == [7, 7]  # the first reply holds again under the first rule


def test_a_used_up_budget_leaves_answers_missing(tmp_path):
    model = Model()
    budget = BudgetSettings(max_tokens=150)
    judged, _ = asker(tmp_path, model, budget=budget, runner=RunnerSettings(concurrency=1)).ask(
        questions(*(f"rate {number}" for number in range(1, 9)))
    )
    said = [bool(one.values) for one in judged]
    assert 0 < sum(said) < 8 and len(model.asked) == sum(said)
    assert {one.failure for one in judged if not one.values} == {NOT_ASKED}


def test_a_budget_in_money_needs_a_price(tmp_path):
    model = Model()
    model.price = None
    with pytest.raises(UserError, match="price"):
        asker(tmp_path, model, budget=BudgetSettings(max_cost=1.0))


def test_a_dry_run_asks_nobody_and_writes_nothing(tmp_path):
    model = Model()
    estimate = asker(tmp_path, model, repeat=2).dry_run(questions("rate 1", "rate 2", "rate 1"))
    assert estimate is not None and estimate.work.to_do == 4
    assert not model.asked and not list(tmp_path.iterdir())
    assert asker(tmp_path, model).dry_run([]) is None


def test_the_ledger_says_who_was_asked(tmp_path):
    asker(tmp_path, Model()).ask(questions("rate 1"))
    first = json.loads((tmp_path / "q.ledger.jsonl").read_text().splitlines()[0])
    assert first["judge"] == "model" and first["settings"] == {"model": "model"}


def test_a_task_with_words_of_its_own_is_not_said_to_be_judged_by_the_rubric(tmp_path, helpsteer):
    judges = Judges(asker=asker(tmp_path, Model()), settings={"model": "model", "rubric": "of labelling"})
    task = {"_target_": "tests.own_task.OwnTask"}
    assert judges.settings_for(build_task(task, helpsteer)) == {"model": "model"}
    rated = {"_target_": "nemo_mm_align.evaluation.tasks.attributes.AttributesTask"}
    assert judges.settings_for(build_task(rated, helpsteer))["rubric"] == "of labelling"
    assert judges.settings_for(build_task({"_target_": "nemo_mm_align.miniature.task.MiniatureTask"}, helpsteer)) == {}
