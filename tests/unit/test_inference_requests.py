"""Groups, sweeps, and what is wrong with prompts, found before a model is built."""

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.inference.answer_file import AnswerFile
from nemo_mm_align.inference.refill import plan_groups
from nemo_mm_align.inference.requests import (
    EncodedPrompt,
    Request,
    check_lengths,
    make_requests,
    sweep_assignments,
)
from nemo_mm_align.schema.chat_template import ChatTemplate
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.schema.records import Candidate, CandidateSet, Prompt, RecordAppender, Turn, read_records
from tests.unit.toy_tokenizers import word_level

TEMPLATE = ChatTemplate(
    name="t", user_prefix="USER: ", user_suffix=" ", assistant_prefix="ASSISTANT: ", stop="</s>", separator=""
)


def requests_of(lengths):
    return [
        Request(prompt(f"p{place}"), None, EncodedPrompt(f"p{place}", [1] * length))
        for place, length in enumerate(lengths)
    ]


def prompt(name, text="What is in the image?"):
    return Prompt(id=name, turns=(Turn(role="user", content=text),))


@pytest.fixture(scope="module")
def encoder(helpsteer):
    tokenizer = word_level()
    return Encoder(tokenizer, TEMPLATE, tokenizer.convert_tokens_to_ids("<image>"), 4, helpsteer)


@pytest.mark.parametrize(
    ("samples", "max_batch_tokens", "replicas", "expected"),
    [
        (1, 200, 1, [[90, 88], [41, 40, 39, 7], [6, 5]]),  # 2 slots of 90, then 4 of 41, the last of which 7 may have
        (2, 200, 1, [[90, 88], [41, 40, 39], [7, 6, 5]]),
        (1, 200, 2, [[90, 88, 41, 40], [39, 7, 6, 5]]),  # slots of the second replica would be empty
        (1, 90, 1, [[90, 88], [41, 40, 39], [7, 6, 5]]),
        (1, 10**6, 1, [[90, 88, 41, 40, 39, 7, 6, 5]]),
        (1, 1, 1, [[90, 88], [41, 40, 39], [7, 6, 5]]),  # one slot at least
    ],
)
def test_groups_hold_lengths_up_to_twice_the_shortest_and_leave_no_slot_empty(
    samples, max_batch_tokens, replicas, expected
):
    lengths = [5, 90, 40, 41, 7, 6, 88, 39]
    groups = plan_groups(lengths, [samples] * len(lengths), max_batch_tokens, replicas)
    assert [[lengths[place] for place in group] for group in groups] == expected


def test_a_sweep_moves_one_attribute_at_a_time(helpsteer):
    found = sweep_assignments(helpsteer, {"helpfulness": 3}, ["verbosity", "complexity"])
    start = helpsteer.complete({"helpfulness": 3})
    assert len(found) == 9  # both defaults lie in the range: that assignment comes once
    assert all(sum(values[name] != start[name] for name in start) <= 1 for values in found)
    assert sorted({values["verbosity"] for values in found}) == [0, 1, 2, 3, 4]


def test_unknown_attributes_and_values_out_of_range_are_refused(encoder):
    with pytest.raises(UserError, match="unknown attribute 'wit'.*verbosity"):
        make_requests([prompt("a")], encoder, [{"wit": 1}])
    with pytest.raises(UserError, match="verbosity=9 is outside 0 to 4"):
        make_requests([prompt("a")], encoder, [{"verbosity": 9}])


def test_what_is_asked_stands_in_the_prompt(encoder):
    plain, terse, wordy = make_requests([prompt("a")], encoder, [None, {"verbosity": 0}, {"verbosity": 4}])
    assert plain.attributes is None and plain.encoded.ids == encoder.encode_prompt(prompt("a").turns)
    assert terse.encoded.ids == encoder.encode_prompt(prompt("a").turns, encoder.schema.complete({"verbosity": 0}))
    assert len(terse.encoded.ids) > len(plain.encoded.ids) and wordy.key != terse.key != plain.key


def test_faulty_prompts_are_named_together(encoder):
    prompts = [prompt("a"), prompt("a"), prompt("b", "say </s> now")]
    with pytest.raises(UserError, match=r"(?s)2 faults.*'a': this id stands there twice.*'b'.*special token"):
        make_requests(prompts, encoder)


def test_too_long_prompts_are_named():
    with pytest.raises(UserError, match=r"(?s)1 faults.*'p1': 60 tokens and 8 new ones.*64 positions: lower max_new"):
        check_lengths(requests_of([56, 60]), max_new_tokens=8, max_positions=64)


def record(name, **sampling):
    return CandidateSet(prompt_id=name, candidates=(Candidate(text=f"of {name}"),), sampling=sampling)


def test_answers_come_into_prompt_order_and_survive_a_torn_line(tmp_path):
    path, items = tmp_path / "out.jsonl", requests_of([1, 2, 3])
    with AnswerFile(path, {"seed": 1}) as file:
        file.append(record("p2"))
        file.append(record("p0"))
    with path.open("a") as torn:
        torn.write('{"prompt_id": "p1", "cand')
    with AnswerFile(path, {"seed": 1}) as file:
        assert [item.key in file.sets for item in items] == [True, False, True]
        file.append(record("p1"))
        file.finish([item.key for item in items])
    assert [line.prompt_id for line in read_records(path, CandidateSet)] == ["p0", "p1", "p2"]


def test_other_settings_foreign_files_and_second_writers_are_refused(tmp_path):
    path = tmp_path / "out.jsonl"
    with AnswerFile(path, {"seed": 1, "top_k": 0}) as file:
        file.append(record("p0"))
        with pytest.raises(UserError, match=r"out.jsonl: process \d+ on .* writes it\. Wait for its end"):
            AnswerFile(path, {"seed": 1, "top_k": 0})
    with pytest.raises(UserError, match=r"other settings: seed 1 \(now 2\)\. Give another out"):
        AnswerFile(path, {"seed": 2, "top_k": 0})
    other = tmp_path / "other.jsonl"
    with RecordAppender(other) as appender:
        appender.append(record("p0"))
    with pytest.raises(UserError, match=r"not other\.settings\.json beside it"):
        AnswerFile(other, {"seed": 1})
