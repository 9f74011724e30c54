"""Rated answers as training data: what a record may hold, what a sample is, and how they are built from annotations."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir

from nemo_mm_align.core.errors import RecordError, UserError
from nemo_mm_align.core.repository import CONF
from nemo_mm_align.datasets.build_rated import heldout_path, is_held_out
from nemo_mm_align.datasets.build_settings import BuildSettings
from nemo_mm_align.datasets.build_stage import build_from_config
from nemo_mm_align.datasets.builders import build
from nemo_mm_align.datasets.kinds import RATED_ANSWERS
from nemo_mm_align.datasets.plan import PlanSettings, plan_lengths
from nemo_mm_align.datasets.sources import SourceSettings, read_examples
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.chat_template import ChatTemplate
from nemo_mm_align.schema.examples import RatedAnswers
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.schema.records import Annotation, Prompt, RatedCandidate, Turn, read_records, write_records
from tests.unit.toy_tokenizers import llama_like

QUESTION = {"role": "user", "content": "is there a triangle?"}
GOOD = {"text": "yes", "attributes": {"correctness": 3.5, "helpfulness": 4}}
RECORD = {"id": "a", "turns": [QUESTION], "answers": [GOOD, {"text": "no", "attributes": {"verbosity": 0}}]}


def read(folder: Path, schema: AttributeSchema | None, *records: dict[str, Any], **settings: Any) -> list[Any]:
    path = folder / "rated.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return read_examples(SourceSettings(path=str(path), **settings), schema)


def test_a_record_holds_all_answers_of_a_prompt(tmp_path: Path, helpsteer: AttributeSchema) -> None:
    (example,) = read(tmp_path, helpsteer, RECORD)
    assert isinstance(example, RatedAnswers) and example.attributes is None
    assert [answer.attributes for answer in example.answers] == [
        {"helpfulness": 4, "correctness": 3.5},
        {"verbosity": 0},
    ]
    extra = {"text": "x", "attributes": {"toxicity": 0, "verbosity": 1}}
    (example,) = read(tmp_path, helpsteer, RECORD | {"answers": [extra]}, ignore_labels=("Toxicity",))
    assert example.answers[0].attributes == {"verbosity": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": [GOOD, {"text": "no", "attributes": {"honesty": 1}}]}, "answers[1]: unknown attribute 'honesty'"),
        (
            {"answers": [{"text": "no", "attributes": {"verbosity": 4.2}}]},
            "answers[0]: verbosity=4.2 is outside 0 to 4",
        ),
        ({"answers": [{"text": "no", "attributes": {"verbosity": "3"}}]}, "answers[0]: verbosity='3' is not a number"),
        ({"answers": [{"text": "no", "attributes": {}}]}, "answers[0] has no attribute"),
        ({"answers": [{"text": "no"}]}, "answers[0] has no attribute"),
        ({"answers": [GOOD, GOOD | {"text": " yes"}]}, "two answers are the same text"),
        ({"answers": [GOOD | {"text": " "}]}, "an answer is empty"),
        ({"answers": [GOOD | {"text": "see <image>"}]}, "<image> stands outside a user turn"),
        ({"answers": [GOOD | {"score": 1}]}, "unknown key 'score' of an answer"),
        ({"answers": []}, "answers is list '[]'. Remedy: answers must be a list of at least one {text, attributes}"),
        ({"answers": "yes"}, "answers is str 'yes'"),
        ({"chosen": "yes"}, "unknown key 'chosen'"),
        ({"attributes": {"verbosity": 1}}, "unknown key 'attributes'"),
        ({"turns": [QUESTION, {"role": "assistant", "content": "x"}]}, "the turns are user, assistant."),
    ],
)
def test_faults_are_named_with_file_and_line(
    tmp_path: Path, helpsteer: AttributeSchema, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, helpsteer, RECORD, RECORD | change)
    assert "rated.jsonl: 1 of 2 records refused" in str(caught.value)
    assert f"line 2 (id a): {message}" in str(caught.value)


def test_a_question_that_asks_for_attributes_is_a_fault(tmp_path: Path, helpsteer: AttributeSchema) -> None:
    asked = f"is there?\n{helpsteer.steering_line(dict.fromkeys(helpsteer.names, 4))}"
    with pytest.raises(UserError, match="line 1 .*the question asks for attributes"):
        read(tmp_path, helpsteer, RECORD | {"turns": [{"role": "user", "content": asked}]})


def test_a_file_read_as_such_records_is_as_strict(tmp_path: Path) -> None:
    for change, message in (
        ({"answers": [GOOD, GOOD]}, "same text"),
        ({"answers": [GOOD | {"attributes": {}}]}, "least 1"),
    ):
        (tmp_path / "r.jsonl").write_text(json.dumps(RECORD | change) + "\n")
        with pytest.raises(RecordError, match=rf"r.jsonl.*1.*{message}"):
            list(read_records(tmp_path / "r.jsonl", RatedAnswers))


@pytest.fixture(scope="module")
def encoder(helpsteer: AttributeSchema) -> Encoder:
    tokenizer = llama_like()
    image = tokenizer.convert_tokens_to_ids("<image>")
    template = ChatTemplate.from_config(yaml.safe_load((CONF / "template/vicuna_v1.yaml").read_text()))
    return Encoder(tokenizer, template, image, 4, helpsteer)


def test_a_sample_has_a_sequence_per_answer_and_its_targets(
    tmp_path: Path, helpsteer: AttributeSchema, encoder: Encoder
) -> None:
    examples = read(tmp_path, helpsteer, RECORD)
    (sample,), plan = plan_lengths(examples, encoder, PlanSettings(max_length=99), RATED_ANSWERS)
    assert sample.roles == ("candidate", "candidate") and not plan.dropped
    assert [sequence.ids[-1] for sequence in sample.sequences] == [encoder.stop_id] * 2
    assert "Helpfulness" not in encoder.tokenizer.decode(sample.sequences[0].ids)
    assert sample.targets is not None and sample.targets[0][:2] == [4.0, 3.5] and sample.targets[1][4] == 0.0
    assert sum(map(math.isnan, [*sample.targets[0], *sample.targets[1]])) == 7
    sample.sequences[1] = sample.sequences[0]
    assert RATED_ANSWERS.flaw(sample) == (
        "same answers",
        "two answers differ as texts, but are the same tokens; keep one of them, with the mean of their values.",
    )


def annotation(schema: AttributeSchema, name: str, ratings: dict[str, int], **more: Any) -> Annotation:
    candidates = tuple(
        RatedCandidate(text=text, ratings=dict.fromkeys(schema.names, value)) for text, value in ratings.items()
    )
    return Annotation(
        prompt=Prompt(id=name, turns=(Turn(role="user", content="q"),)),
        candidates=candidates,
        judge="j",
        **{"schema_name": schema.name, "schema_fingerprint": schema.fingerprint, **more},
    )


def settings(**more: Any) -> BuildSettings:
    return BuildSettings(name="attribute_model", **more)


def test_equal_texts_and_repetitions_are_averaged(tmp_path: Path, helpsteer: AttributeSchema) -> None:
    first = [annotation(helpsteer, "p", {"a": 4, " a": 1, "b": 0}), annotation(helpsteer, "q", {"c": 2})]
    write_records(tmp_path / "again.jsonl", [annotation(helpsteer, "p", {"a": 3, " a": 0, "b": 1})])
    (p, q), summary = build(settings(repeats=(tmp_path / "again.jsonl",)), first, helpsteer)
    assert isinstance(p, RatedAnswers) and isinstance(q, RatedAnswers)
    assert [(answer.text, answer.attributes["verbosity"]) for answer in p.answers] == [("a", 2.0), ("b", 0.5)]
    assert p.metadata == {"prompt_id": "p", "judge": "j", "candidates": [0, 2], "judgements": 2}
    assert q.answers[0].attributes["verbosity"] == 2 and q.metadata["judgements"] == 1
    assert dict(summary.dropped) == {("candidate", "same text as another, counted in its mean"): 1}
    figures = summary.ratings.content()
    assert (figures["answers"], figures["attributes"]["verbosity"]["mean"]) == (3, 1.5)
    assert figures["attributes"]["verbosity"]["deviation"] == pytest.approx(math.sqrt(0.5))
    assert "verbosity: mean 1.50 (standard deviation 0.71) of 3 answers" in summary.table()


@pytest.mark.parametrize(
    ("again", "message"),
    [
        (("p", {"a": 1, "c": 1}, {}), "prompt p has other candidates there"),
        (("x", {"a": 1}, {}), "1 of its prompts are not in the annotations, for example x"),
        (("p", {"a": 1, "b": 1}, {"schema_fingerprint": "other"}), "prompt p was annotated by schema"),
        (("p", {"a": 9, "b": 1}, {}), "prompt p, candidate 0: helpfulness=9 is outside"),
    ],
)
def test_a_repetition_of_something_else_is_refused_by_name(
    tmp_path: Path, helpsteer: AttributeSchema, again: tuple[str, dict[str, int], dict[str, str]], message: str
) -> None:
    write_records(tmp_path / "again.jsonl", [annotation(helpsteer, *again[:2], **again[2])])
    with pytest.raises(UserError, match=rf"method.repeats: .*again.jsonl: {message}"):
        build(settings(repeats=(tmp_path / "again.jsonl",)), [annotation(helpsteer, "p", {"a": 1, "b": 0})], helpsteer)


def test_what_is_held_out_follows_from_seed_and_id_alone() -> None:
    names = [f"p{number}" for number in range(2000)]
    out = {name for name in names if is_held_out(name, settings(holdout=0.1))}
    assert 150 < len(out) < 250 and out == {
        name for name in reversed(names) if is_held_out(name, settings(holdout=0.1))
    }
    assert out < {name for name in names if is_held_out(name, settings(holdout=0.3))}
    assert out != {name for name in names if is_held_out(name, settings(holdout=0.1, seed=1))}
    assert not any(is_held_out(name, settings(holdout=0)) for name in names)
    assert heldout_path(Path("a/rated.jsonl")) == Path("a/rated.heldout.jsonl")


def test_of_prompts_without_images_a_share_is_kept(tmp_path: Path, helpsteer: AttributeSchema) -> None:
    """Repetitions of those that are left out are no fault."""
    texts = [annotation(helpsteer, f"p{number}", {"a": 4, "b": 1}) for number in range(200)]
    pictured = [
        one.model_copy(
            update={
                "prompt": Prompt(id=f"i{number}", images=("i.png",), turns=(Turn(role="user", content="<image>q"),))
            }
        )
        for number, one in enumerate(texts)
    ]
    write_records(tmp_path / "again.jsonl", [*texts, *pictured])

    def kept(**more: Any) -> set[str]:
        found, _ = build(settings(repeats=(tmp_path / "again.jsonl",), **more), [*texts, *pictured], helpsteer)
        return {example.id for example in found}

    assert kept() == {one.prompt.id for one in [*texts, *pictured]}
    fifth, half = kept(text_share=0.2), kept(text_share=0.5)
    assert {name for name in fifth if name[0] == "i"} == {one.prompt.id for one in pictured}
    assert 220 < len(fifth) < 260 and fifth < half and 270 < len(half) < 330
    assert kept(text_share=0) == {one.prompt.id for one in pictured}
    assert fifth != kept(text_share=0.2, seed=1)
    _, summary = build(settings(text_share=0.2), texts, helpsteer)
    assert "method.text_share" in str(summary.dropped)


def test_the_stage_writes_what_is_held_out_beside_the_training_set(tmp_path: Path, helpsteer: AttributeSchema) -> None:
    write_records(tmp_path / "j.jsonl", [annotation(helpsteer, f"p{number}", {"a": 4, "b": 1}) for number in range(30)])

    def run(*more: str) -> Any:
        words = ["method=attribute_model", f"annotations={tmp_path}/j.jsonl", f"out={tmp_path}/out/rated.jsonl", *more]
        with initialize_config_dir(str(CONF), version_base=None):
            return build_from_config(compose("build", words))

    assert run().held_out == 3
    train, held = (
        [example.id for example in read_records(tmp_path / "out" / name, RatedAnswers)]
        for name in ("rated.jsonl", "rated.heldout.jsonl")
    )
    assert sorted(train + held) == sorted(f"p{number}" for number in range(30)) and len(held) == 3
    summary = json.loads((tmp_path / "out/rated.jsonl.summary.json").read_text())
    assert (summary["kept"], summary["held_out"], summary["ratings"]["attributes"]["verbosity"]["missing"]) == (
        30,
        3,
        0,
    )
    assert summary["ratings"]["attributes"]["verbosity"]["mean"] == 2.5
    (warning,) = run("method.holdout=0").warnings
    assert "rated.heldout.jsonl is of an earlier build" in warning
    with pytest.raises(UserError, match="holdout=0.001: of 30 prompts none was held out. Give another share or seed"):
        run("method.holdout=0.001")
    with pytest.raises(UserError, match="30 .*rated answers, which format=records alone holds|no example is left"):
        run("format=trl")
