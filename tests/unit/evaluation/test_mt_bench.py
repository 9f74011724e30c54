"""MT-Bench: what is asked of the model and of the judge, what replies come to, FastChat's files in and out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from nemo_mm_align.benchmarks.judge_server.words import true_rating
from nemo_mm_align.core.errors import RecordError, UserError
from nemo_mm_align.evaluation.answer_files import AnswerReader
from nemo_mm_align.evaluation.judging import Judged
from nemo_mm_align.evaluation.measures import Measurement
from nemo_mm_align.evaluation.results import MethodResult
from nemo_mm_align.evaluation.sources import SourceFile
from nemo_mm_align.evaluation.tasks import mt_bench_data
from nemo_mm_align.evaluation.tasks.mt_bench import MTBenchTask
from nemo_mm_align.evaluation.tasks.task import Answered, scored_by
from nemo_mm_align.llm.client import LanguageModel
from nemo_mm_align.llm.clients.anthropic import Anthropic
from nemo_mm_align.llm.clients.gemini import Gemini
from nemo_mm_align.llm.clients.openai_compatible import OpenAICompatible
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.llm.question import Answer
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Candidate, CandidateSet, write_records
from tests.judge_server import FaultPlan, judge_server
from tests.unit.evaluation.fastchat_files import ANSWERS, PROMPTS, QUESTIONS, answers, write_lines, write_mt_bench


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_mt_bench(tmp_path)


@pytest.fixture
def task(data: Path) -> MTBenchTask:
    return MTBenchTask(str(data))


def answered(task: MTBenchTask, texts=ANSWERS, replies: dict[str, list[str | list[str]]] | None = None):
    """Answers, and a judge's replies to them, by turn; None is a call that failed."""
    found = []
    for prompt in task.prompts(Path("unused")):
        first, *rest = texts[int(prompt.id)]
        one = Answered(prompt, first, follow_up_answers=tuple(rest))
        if replies is not None:
            judged = {}
            for question, said in zip(task.questions(one), replies[prompt.id], strict=False):
                several = [said] if isinstance(said, str) else said
                judged[question.key] = (
                    Judged(tuple(question.read(Answer(text=text)) for text in several), tuple(several))
                    if several
                    else Judged(failure="rate_limit")
                )
            one = Answered(prompt, first, follow_up_answers=tuple(rest), judged=judged)
        found.append(one)
    return found


def test_prompts_have_the_published_decoding(task: MTBenchTask) -> None:
    prompts = task.prompts(Path("unused"))
    assert [prompt.id for prompt in prompts] == ["81", "111", "141"]
    assert [prompt.decoding.temperature for prompt in prompts] == [0.7, 0, 0.1]
    assert {prompt.decoding.max_new_tokens for prompt in prompts} == {1024}
    assert prompts[0].question == "Write {a} poem." and prompts[0].follow_ups == ("Shorten it.",)


def test_the_judge_is_asked_as_fastchat_asks(task: MTBenchTask) -> None:
    asked = {one.prompt.id: task.questions(one) for one in answered(task)}
    names = {"81": ("single-v1", "single-v1-multi-turn"), "111": ("single-math-v1", "single-math-v1-multi-turn")}
    for number, key in enumerate(names):
        turns, said = QUESTIONS[number]["turns"], ANSWERS[int(key)]
        values = {"question": turns[0], "answer": said[0], "ref_answer_1": "It is 2.", "ref_answer_2": "It is 6."}
        values |= {"question_1": turns[0], "question_2": turns[1], "answer_1": said[0], "answer_2": said[1]}
        for name, one in zip(names[key], asked[key], strict=True):
            system, template = PROMPTS[name]
            assert one.question.instructions == system
            assert one.question.parts == (template.format(**values),)
    assert [one.key for one in asked["141"]] == ["turn_1", "turn_2"]  # an empty answer is judged too


def test_scores_by_hand(task: MTBenchTask) -> None:
    replies = {"81": ["[[8]]", "[[5]]"], "111": ["[[10]]", []], "141": [["[[7]]", "[[9]]", "[[4]]"], "[[2.5]]"]}
    one, two, three = scored_by(task, answered(task, replies=replies))
    assert one.values == {
        "turn_1": 8,
        "turn_2": 5,
        "score": 6.5,
        "category.writing": 6.5,
        "several_ratings": 0,
        "length_words": 2,  # 3 and 1
    }
    assert two.values["turn_1"] == 10 and two.missing == ("score", "turn_2", "category.math") and not two.failed
    assert three.values["turn_1"] == 7 and three.values["score"] == 4.75  # the median of three replies
    assert three.values["judge_spread"] == 5 and three.judgements == ("[[7]]", "[[2.5]]")


def test_what_nobody_rated_has_failed(task: MTBenchTask) -> None:
    scored = scored_by(task, answered(task, replies={"81": [[], []], "111": [[], []], "141": [[], []]}))
    assert [one.failed for one in scored] == ["rate_limit"] * 3 and not any(one.values for one in scored)
    assert [one.failed for one in scored_by(task, answered(task))] == ["not judged"] * 3


def test_a_dialogue_that_broke_off_has_one_turn(task: MTBenchTask) -> None:
    broken = {**ANSWERS, 81: ["A rose"]}
    replies = {"81": ["[[8]]"], "111": ["[[1]]", "[[1]]"], "141": ["[[1]]", "[[1]]"]}
    assert [len(task.questions(one)) for one in answered(task, broken)] == [1, 2, 2]
    first = scored_by(task, answered(task, broken, replies))[0]
    assert first.values["turn_1"] == 8 and first.missing == ("score", "turn_2", "category.writing")


def test_a_quoted_rating_is_read_as_published_and_told(task: MTBenchTask, data: Path) -> None:
    quoted = 'The answer is just "[[10]]". Rating: [[1]]'
    replies = {"81": [quoted, "[[1]]"], "111": ["[[1]]", "[[1]]"], "141": ["[[1]]", "[[1]]"]}
    first = scored_by(task, answered(task, replies=replies))[0]
    assert first.values["turn_1"] == 10 and first.values["several_ratings"] == 1
    share = Measurement(value=1 / 3, n=3, per_seed=[1 / 3])
    said = task.cautions({"dpo": MethodResult(measurements={"several_ratings": share})})
    assert len(said) == 1 and "33.3% of" in said[0]
    last = MTBenchTask(str(data), rating="last")
    assert scored_by(last, answered(last, replies=replies))[0].values["turn_1"] == 1
    with pytest.raises(CallFailure, match="several ratings in brackets: 10, 1"):
        MTBenchTask(str(data), rating="only").questions(answered(task)[0])[0].read(Answer(text=quoted))


def test_published_references_that_are_wrong_are_told(task: MTBenchTask, monkeypatch) -> None:
    assert task.cautions({}) == []  # not the published file
    path = task.bench.sources[2].path
    digest = task.bench.sources[2].sha256
    monkeypatch.setitem(mt_bench_data.PUBLISHED, mt_bench_data.REFERENCES, digest)
    published = MTBenchTask(str(Path(path).parents[1]))
    assert published.cautions({})[0].startswith("Published reference answers of 1 questions are wrong (111)")
    assert published.sources[2] == SourceFile("reference_answer/gpt-4.jsonl", path, digest, True)
    assert published.sources[0].said.startswith("changed")
    assert [bool(one.notes) for one in published.score(answered(published))] == [False, True, False]


def test_an_image_enters_the_first_question(data: Path, tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    one = MTBenchTask(str(data), image=str(tmp_path / "b.png")).prompts(Path("unused"))
    assert {prompt.images for prompt in one} == {(str(tmp_path / "b.png"),)}
    assert one[0].turns[0].content == "<image>\nWrite {a} poem." and "<image>" not in one[0].follow_ups[0]
    task = MTBenchTask(str(data), image=str(tmp_path))
    shown = task.prompts(Path("unused"))
    assert [Path(prompt.images[0]).name for prompt in shown] == ["a.jpg", "b.png", "a.jpg"]
    asked = task.questions(Answered(shown[0], "x"))[0].question
    assert not asked.images and "Write {a} poem." in asked.texts[1] and "<image>" not in asked.texts[1]
    with pytest.raises(UserError, match=r"no image and no folder with one.*Correct task.image"):
        MTBenchTask(str(data), image=str(data)).prompts(Path("unused"))


def test_fastchat_reads_what_is_written(task: MTBenchTask, tmp_path: Path) -> None:
    replies = {"81": ["[[8]]", "[[5.5]]"], "111": ["[[10]]", []], "141": ["[[7]]", "[[2]]"]}
    files = task.field_files("dpo", scored_by(task, answered(task, replies=replies)))
    assert sorted(files) == ["model_answer/dpo.jsonl", "model_judgment/dpo_single.jsonl"]
    path = tmp_path / "answers.jsonl"
    path.write_text(files["model_answer/dpo.jsonl"])
    assert task.read_answers(path) == {str(key): tuple(texts) for key, texts in ANSWERS.items()}
    rows = [json.loads(line) for line in files["model_judgment/dpo_single.jsonl"].splitlines()]
    said = [(row["question_id"], row["turn"], row["score"], row["judgment"]) for row in rows]
    assert said[1:4] == [(81, 2, 5.5, "[[5.5]]"), (111, 1, 10, "[[10]]"), (111, 2, -1, "")]
    assert rows[2]["judge"] == ["judge", "single-math-v1"] and "It is 2." in rows[2]["user_prompt"]
    rated = [row["score"] for row in rows if row["score"] != -1]  # as FastChat's show_result
    assert sum(rated) / len(rated) == 6.5


def test_hand_made_files_are_scored_again(task: MTBenchTask, tmp_path: Path) -> None:
    """Answers and judgements of others, as files: (7 + 3) / 2, (9.5 + 8.5) / 2 and (10 + 1) / 2."""
    path = write_lines(tmp_path / "model_answer/m.jsonl", answers(ANSWERS))
    said = {(81, 1): 7, (81, 2): 3, (111, 1): 9.5, (111, 2): 8.5, (141, 1): 10, (141, 2): 1}
    rows = [{"question_id": key, "turn": turn, "judgment": f"So.\nRating: [[{n}]]"} for (key, turn), n in said.items()]
    judgements = write_lines(tmp_path / "model_judgment/m.jsonl", rows)
    replies: dict[str, list[str | list[str]]] = {}
    for row in map(json.loads, judgements.read_text().splitlines()):
        replies.setdefault(str(row["question_id"]), []).append(row["judgment"])
    texts = {int(key): list(turns) for key, turns in task.read_answers(path).items()}
    scored = scored_by(task, answered(task, texts, replies))
    assert [one.values["score"] for one in scored] == [5, 9, 5.5]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (answers({81: ["a"], 111: ["b"]}) + answers({81: ["c"]}), r":3: question_id 81 stands in line 1 already"),
        ([*answers({81: ["a"]}), {"question_id": 111}], r":2: choices is missing"),
        ([*answers({81: ["a"]}), *answers({111: []})], r":2: turns is missing or no list of texts"),
    ],
)
def test_broken_answers_are_told_with_their_line(task: MTBenchTask, tmp_path: Path, lines, message: str) -> None:
    with pytest.raises(UserError, match=message):
        task.read_answers(write_lines(tmp_path / "a.jsonl", lines))


def test_files_of_another_form_are_left_to_others(task: MTBenchTask, tmp_path: Path) -> None:
    assert task.read_answers(write_lines(tmp_path / "a.jsonl", [{"prompt_id": "81", "candidates": []}])) is None
    (tmp_path / "b.jsonl").write_text("no json")
    assert task.read_answers(tmp_path / "b.jsonl") is None


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ('{"question_id": 81, "choices": [', r":1: broken JSON \(.*FastChat's .*\(question_id, choices\) or this project"),
        ('{"text": "a"}', r":1: neither of the forms that are taken.*FastChat's .* or this project's answers \(prompt_id, cand"),
        ('{"prompt_id": "81", "candidates": [', r":1: .*a JSON object of a CandidateSet record"),
    ],
)  # fmt: skip
def test_a_first_line_of_no_form_is_told_with_all_that_are_taken(
    task: MTBenchTask, helpsteer: AttributeSchema, tmp_path: Path, first: str, message: str
) -> None:
    prompts = {prompt.id: prompt for prompt in task.prompts(Path("x"))}
    (tmp_path / "a.jsonl").write_text(f"{first}\n")
    with pytest.raises(RecordError, match=message):
        AnswerReader(prompts, helpsteer, task=task).read(tmp_path / "a.jsonl")


def test_the_flat_layout_is_read_too(data: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    (data / "question.jsonl").rename(flat / "question.jsonl")
    (data / "reference_answer/gpt-4.jsonl").rename(flat / "reference_answer.jsonl")
    (tmp_path / "data/judge_prompts.jsonl").rename(flat / "judge_prompts.jsonl")
    assert MTBenchTask(str(flat)).reference(MTBenchTask(str(flat)).prompts(Path("x"))[1]) == "It is 2.\n\nIt is 6."


def test_what_is_missing_is_told(task: MTBenchTask, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"prompt 7 is none of its questions"):
        task.score([Answered(task.prompts(Path("x"))[0].model_copy(update={"id": "7"}), "x")])
    with pytest.raises(UserError, match=r"no questions \(question.jsonl\)"):
        MTBenchTask(str(tmp_path)).prompts(Path("x"))
    (data / "reference_answer/gpt-4.jsonl").write_text(json.dumps(answers({1: ["a"]})[0]) + "\n")
    with pytest.raises(UserError, match=r"question.jsonl:2: question 111 is of math and lacks reference answers"):
        MTBenchTask(str(data)).prompts(Path("x"))
    prompts = tmp_path / "data/judge_prompts.jsonl"
    prompts.write_text(prompts.read_text().replace("single-v1-multi-turn", "other"))
    (data / "question.jsonl").write_text(json.dumps(QUESTIONS[0]) + "\n")
    with pytest.raises(UserError, match=r"no prompt called single-v1-multi-turn"):
        MTBenchTask(str(data)).prompts(Path("x"))
    prompts.write_text(prompts.read_text().replace("other", "single-v1-multi-turn").replace("{answer_2}", "{answer}"))
    with pytest.raises(UserError, match=r":4: prompt_template of single-v1-multi-turn: \{answer\} stands for nothing"):
        MTBenchTask(str(data)).prompts(Path("x"))


def openai(address: str) -> LanguageModel:
    return OpenAICompatible(f"{address}/v1", "judge", api_key_variable=None)


def gemini(address: str) -> LanguageModel:
    return Gemini("judge", api_endpoint=address)


def anthropic(address: str) -> LanguageModel:
    return Anthropic("judge", base_url=address)


@pytest.mark.parametrize("make", [openai, gemini, anthropic])
def test_a_served_judge_rates_every_turn(make, task: MTBenchTask, monkeypatch) -> None:
    """A real client against the local judge, whose third reply has no rating and whose fourth call is refused."""
    for name in ("GOOGLE_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "test-key-0123456789")
    with judge_server(FaultPlan(schedule={2: "prose", 3: "503"})) as server:
        client, found = make(server.address), []
        for one in answered(task):
            judged = {}
            for asked in task.questions(one):
                try:
                    reply = client.ask(asked.question)
                    judged[asked.key] = Judged((asked.read(reply),), (reply.text,))
                except CallFailure as failure:
                    judged[asked.key] = Judged(failure=failure.kind)
            found.append(Answered(one.prompt, one.text, follow_up_answers=one.follow_up_answers, judged=judged))
    scored = scored_by(task, found)
    texts = [[asked.question.texts[1] for asked in task.questions(one)] for one in found]
    assert [one.values.get("turn_1") for one in scored] == [true_rating(texts[0][0]), None, true_rating(texts[2][0])]
    assert [one.values.get("turn_2") for one in scored] == [true_rating(texts[0][1]), None, true_rating(texts[2][1])]
    assert scored[1].failed == "unparsable"
    assert len({exchange.question for exchange in server.exchanges}) == 6


def test_a_dialogue_is_as_long_as_its_answers_and_cut_where_one_was(
    task: MTBenchTask, tmp_path: Path, helpsteer
) -> None:
    prompts = {prompt.id: prompt for prompt in task.prompts(tmp_path)}
    both = Candidate.dialogue(
        [Candidate(text="one two", num_tokens=4), Candidate(text="three", num_tokens=2, finish_reason="length")]
    )
    old = Candidate(text="one two", num_tokens=4, follow_up_answers=("three",))
    for number, candidate in enumerate((both, old)):
        path, key = tmp_path / f"{number}.jsonl", next(iter(prompts))
        write_records(path, [CandidateSet(prompt_id=key, candidates=(candidate,))])
        (one,) = AnswerReader(prompts, helpsteer).read(path)
        (scored,) = task.score([one])
        assert scored.num_words == 3 and scored.follow_up_answers == ("three",)
        assert scored.num_tokens == (6, None)[number]  # files of old say how long the first answer is, alone
        assert one.finish_reason == ("length", "stop")[number]
