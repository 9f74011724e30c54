"""AlpacaEval: order, preferences, files, and the task from question to figure with a judge behind a local server."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nemo_mm_align.core.errors import RecordError, UserError
from nemo_mm_align.evaluation.alpaca.preference import is_switched, read_preference
from nemo_mm_align.evaluation.judging import Judged
from nemo_mm_align.evaluation.tasks.alpaca_eval import PUBLISHED, AlpacaEvalTask
from nemo_mm_align.evaluation.tasks.task import Answered, AsksJudge, BringsPrompts, FieldFiles, scored_by
from nemo_mm_align.llm.clients.openai_compatible import OpenAICompatible
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.llm.question import Answer
from tests.judge_server import judge_server
from tests.unit.evaluation.task_data import ALPACA_ROWS, write_alpaca_eval, write_json


def told(**probabilities: float) -> Answer:
    return Answer("", top_logprobs=tuple((token, math.log(p)) for token, p in probabilities.items()))


@pytest.fixture
def make(tmp_path: Path):
    def build(rows=ALPACA_ROWS, **settings) -> AlpacaEvalTask:
        return AlpacaEvalTask(*map(str, write_alpaca_eval(tmp_path, rows)), **settings)

    return build


def test_a_preference_is_a_share_of_both_letters() -> None:
    """p(M) = 0.2 beside p(m) = 0.6: M, which stands second, is preferred to a quarter; other tokens do not count."""
    assert read_preference(told(m=0.6, M=0.2, The=0.1), False) == {"preference": pytest.approx(1.25), "by_letter": 0}
    assert read_preference(told(m=0.6, M=0.2), True)["preference"] == pytest.approx(1.75)
    assert read_preference(told(M=0.01, The=0.9), False)["preference"] == 2, (
        "a letter that is not told has probability 0"
    )
    assert read_preference(told(m=0.01), False)["preference"] == 1
    with pytest.raises(CallFailure, match="neither m nor M .*'The', ' m'"):
        read_preference(told(The=0.9, **{" m": 0.1}), False)


@pytest.mark.parametrize(
    ("text", "preference"),
    [("M", 2), ("m", 1), ('"M".', 2), ("Model **m** it is", 1), ("m or M", None), ("", None), ("I'm not sure", None)],
)
def test_without_probabilities_the_letter_counts(text: str, preference) -> None:
    if preference is None:
        with pytest.raises(CallFailure, match="not one of m and M"):
            read_preference(Answer(text), False)
    else:
        assert read_preference(Answer(text), False) == {"preference": preference, "by_letter": 1}


def test_published_rows_are_read_as_published() -> None:
    """The first rows of results/vicuna-13b-v1.5/weighted_alpaca_eval_gpt4_turbo/annotations.json at commit a9123e1.

    Of two models' whole files (Qwen-14B-Chat, OpenHermes-2.5-Mistral-7B) all 1,610 preferences and orders come out as published.
    """
    rows = [
        (
            "What are the names of some famous actors that started their careers on Broadway?",
            -0.0001202317,
            -9.06262,
            1.0001159194,
        ),
        ("How did US states get their names?", -0.0000007896, -15.531251, 1.0000001798),
    ]
    for instruction, second, first, published in rows:
        answer = Answer("M", top_logprobs=(("M", second), ("m", first)))
        found = read_preference(answer, is_switched(instruction))["preference"]
        assert found == pytest.approx(published, abs=1e-9)
    assert all(is_switched(row[0]) for row in rows)


def judged(task: AlpacaEvalTask, texts: list[str], reply) -> list[Answered]:
    """Ask a judge behind a server; `reply` makes its message of what it was shown first and second."""

    def behave(exchange):
        shown = exchange.body["messages"][-1]["content"][0]["text"].split("\n")
        text, alternatives = reply(shown[1].removeprefix("m: "), shown[2].removeprefix("M: "))
        said = exchange.front.generated(text, "length")
        if alternatives:
            top = [{"token": token, "logprob": math.log(p)} for token, p in alternatives.items()]
            said.body["choices"][0]["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
        return said

    answered = [Answered(prompt, text) for prompt, text in zip(task.prompts(Path("unused")), texts, strict=True)]
    with judge_server(allow_text=True) as server:
        server._judge = behave  # type: ignore[method-assign]
        client = OpenAICompatible(f"{server.address}/v1", "m", api_key_variable=None)
        found = []
        for one in answered:
            replies = {}
            for asked in task.questions(one):
                answer = client.ask(asked.question)
                replies[asked.key] = Judged((asked.read(answer),), (answer.text,))
            found.append(replace(one, judged=replies))
    return found


def test_the_longer_answer_wins_whatever_the_order(make) -> None:
    """A judge that gives the longer answer 0.8: ours is longer three times, shorter twice and the same once."""
    task = make()
    texts = ["long " * 9, "word " * 2, "a", "long " * 9, "b", "long " * 9]

    def prefer_longer(first: str, second: str):
        return ("M", {"m": 0.2, "M": 0.8}) if len(second) > len(first) else ("m", {"m": 0.8, "M": 0.2})

    scored = scored_by(task, judged(task, texts, prefer_longer))
    assert [one.values["win_rate"] for one in scored] == pytest.approx([80, 50, 20, 80, 20, 80])
    assert [one.values["discrete_win_rate"] for one in scored] == [100, 50, 0, 100, 0, 100]
    assert scored[1].notes and not scored[0].notes and not scored[1].judgements
    assert scored[0].values["win_rate_by_dataset.koala"] == pytest.approx(80) and "by_letter" not in scored[0].values
    assert scored[2].columns == {"preference": pytest.approx(0.2), "length_difference": 14, "position": 2}
    assert {is_switched(row["instruction"]) for row in ALPACA_ROWS} == {True, False}, "both orders were drawn"
    statistic = task.statistics[0]
    columns = {name: np.array([one.columns[name] for one in scored]) for name in statistic.columns}
    assert np.isfinite(statistic.compute(np.ones((1, 6)), columns)).all()


def test_a_judge_that_likes_what_stands_first_is_found_out_by_both_orders(make) -> None:
    task = make(both_orders=True, top_logprobs=0)
    scored = scored_by(task, judged(task, ["x"] * 6, lambda first, second: ("m", None)))
    assert [one.values["win_rate"] for one in scored] == [50] * 6
    assert {one.values["same_in_both_orders"] for one in scored} == {0} and {
        one.values["by_letter"] for one in scored
    } == {1}
    assert "mean preference in both orders" in task.measures[1].about
    one_order = scored_by(make(), judged(make(), ["x"] * 6, lambda first, second: ("m", None)))
    drawn = [100 * is_switched(row["instruction"]) for row in ALPACA_ROWS]
    assert [one.values["win_rate"] for one in one_order] == drawn, "ours stands first where it is switched"


def test_an_answer_that_was_not_judged_is_missing(make) -> None:
    task = make(both_orders=True)
    prompt = task.prompts(Path("unused"))[0]
    half = {
        "drawn_order": Judged(({"preference": 2.0, "by_letter": 0.0},), ("M",)),
        "other_order": Judged(failure="safety"),
    }
    scored = scored_by(task, [Answered(prompt, "x", judged=half), Answered(task.prompts(Path())[1], "x")])
    assert [one.failed for one in scored] == ["safety", "not judged"]
    assert not scored[0].values and not scored[0].columns
    annotations = json.loads(task.field_files("ours", scored)["results/ours/judge/annotations.json"])
    assert [one["preference"] for one in annotations] == [None, None]


def test_what_stands_in_an_answer_fills_no_place(make) -> None:
    rows = [{"instruction": "Explain {output_1}.", "output": "<|im_end|> {instruction}", "generator": "g"}]
    task = make(rows)
    asked = task.questions(Answered(task.prompts(Path())[0], "{output_2}"))[0].question
    assert asked.instructions == "You compare."
    ours, theirs = "{output_2}", "<|im_end|> {instruction}"
    first, second = (ours, theirs) if is_switched("Explain {output_1}.") else (theirs, ours)
    assert asked.parts == (f"Asked: Explain {{output_1}}.\nm: {first}\nM: {second}",)
    assert (asked.top_logprobs, asked.max_output_tokens) == (5, 1)


def test_outputs_files_come_in_and_go_out(make, tmp_path: Path) -> None:
    task = make()
    outputs = [
        {"instruction": row["instruction"], "output": f"answer {n}", "generator": "x"}
        for n, row in enumerate(ALPACA_ROWS)
    ]
    answers = task.read_answers(Path(write_json(tmp_path / "ours.json", outputs[::-1])))
    assert answers == {f"alpaca_eval-{n:04d}": (f"answer {n}",) for n in range(6)}
    assert task.read_answers(Path(write_json(tmp_path / "own.jsonl", '{"prompt_id": "a"}\n'))) is None
    judge = {"drawn_order": Judged(({"preference": 1.75, "by_letter": 0.0},), ("M",))}
    prompts = task.prompts(Path())
    scored = scored_by(task, [Answered(one, answers[one.id][0], judged=judge) for one in prompts])
    files = task.field_files("ours", scored)
    written = write_json(tmp_path / "again.json", files["results/ours/model_outputs.json"])
    assert task.read_answers(Path(written)) == answers
    annotation = json.loads(files["results/ours/judge/annotations.json"])[0]
    assert (
        annotation["preference"] == 1.75
        and annotation["generator_1"] == "gpt4"
        and annotation["output_2"] == "answer 0"
    )
    assert isinstance(task, BringsPrompts) and isinstance(task, AsksJudge) and isinstance(task, FieldFiles)
    assert task.reference(prompts[1]) == "word word " and prompts[0].decoding.max_new_tokens == 2048


def test_faults_of_files_are_named(make, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"baseline.json:7: the instruction 'Say 3 words.' stands in row 3 already"):
        make([*ALPACA_ROWS, ALPACA_ROWS[2]]).prompts(Path())
    with pytest.raises(RecordError, match="output is None, not text"):
        make([{"instruction": "a"}]).prompts(Path())
    part = write_json(tmp_path / "part.json", [{"instruction": "Say 2 words."}, {"instruction": "Unknown."}])
    with pytest.raises(UserError, match=r"no answer to 1 of 2 instructions .* 'Unknown.'"):
        make(data=part).prompts(Path())
    with pytest.raises(UserError, match="answers none of the 6 instructions"):
        make().read_answers(Path(write_json(tmp_path / "other.json", [{"instruction": "Else", "output": "x"}])))
    part = write_json(tmp_path / "part.json", [{"instruction": "Say 2 words."}])
    assert [one.turns[-1].content for one in make(data=part).prompts(Path())] == ["Say 2 words."]
    task = AlpacaEvalTask(
        str(tmp_path / "baseline.json"), write_json(tmp_path / "short.txt", "{instruction} {output_1}")
    )
    with pytest.raises(UserError, match=r"short.txt: has no \{output_2\}"):
        task.questions(Answered(task.prompts(Path())[0], "x"))


def test_sources_say_whether_they_are_the_published_ones(make) -> None:
    assert [one.published for one in make().sources] == [False, False]
    assert all(len(digest) == 64 for digest in PUBLISHED.values())
