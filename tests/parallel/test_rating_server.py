"""An attribute model over HTTP in tensor and pipeline parallel layouts, asked by the official client, against annotate.py."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.inference.loading import open_for_inference
from nemo_mm_align.inference.rating import rate_answers
from nemo_mm_align.model.config import ParallelConfig
from nemo_mm_align.schema.records import CandidateSet, Prompt, read_records
from tests.attribute_checkpoints import helpsteer
from tests.distributed import run_distributed
from tests.parallel.rating_server_worker import LAYOUTS, LENGTH, NAME, TEXT_ONLY, WAITING
from tests.parallel.test_annotate import QUESTIONS, rated_folder, run

pytestmark = pytest.mark.parallel

NAMES = list(helpsteer().names)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with rated_folder(tmp_path_factory.mktemp("rating_server")) as made:
        yield made


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, dict[str, Any]]:
    """What the server told in each layout."""
    run_distributed("tests.parallel.rating_server_worker", 2, folder, folder / "told.json")
    found: dict[str, dict[str, Any]] = json.loads((folder / "told.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def annotated(folder: Path) -> list[dict[str, float]]:
    """Of every candidate, as annotate.py writes it."""
    records = run(folder, "annotated.jsonl")
    return [candidate.predicted or {} for record in records for candidate in record.candidates]


@pytest.fixture(scope="module")
def alone(folder: Path) -> list[list[float]]:
    """Outputs of the head for every candidate, each rated alone from its prompt's files."""
    opened = open_for_inference(folder / "run", ParallelConfig(), "fp32", rates=True)
    rater, found = opened.rater(max_batch_tokens=1), list[list[float]]()
    prompts, sets = (
        list(read_records(folder / f"{name}.jsonl", kind))
        for name, kind in (("prompts", Prompt), ("candidates", CandidateSet))
    )
    for prompt, candidates in zip(prompts, sets, strict=True):
        for candidate in candidates.candidates:
            (sequence,) = opened.encoder.encode_answers(prompt.turns, [candidate.text])
            sample = Sample(prompt.id, [folder / name for name in prompt.images], [sequence])
            found += rate_answers(rater, [sample], progress=False)[0].tolist()
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_reward_client_is_told_what_annotate_writes(layout: str, told, annotated) -> None:
    rewards = told[layout]["rewards"]
    assert [list(one) for one in rewards] == [NAMES] * len(annotated)
    for reward, values in zip(rewards, annotated, strict=True):
        assert reward == pytest.approx(values, abs=1.01e-4)  # annotate's batches may round the fourth decimal otherwise
    assert told[layout]["within"]["data"][3]["probs"] == pytest.approx(list(annotated[3].values()), abs=1.01e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_outputs_of_a_batch_are_those_of_each_answer_alone(layout: str, told, alone) -> None:
    data = told[layout]["classify"]["data"]
    torch.testing.assert_close(
        torch.tensor([one["probs"] for one in data]), torch.tensor(alone), rtol=0, atol=1e-4
    )  # layouts add in another order
    assert any(not 0 <= value <= 4 for values in alone for value in values)  # what the values above were cut to
    assert [one["index"] for one in data] == list(range(len(alone)))
    assert {one["num_classes"] for one in data} == {len(NAMES)}
    assert data[0]["label"] == NAMES[alone[0].index(max(alone[0]))]


def test_a_rating_is_a_chat_completion_of_pairs(told) -> None:
    found = told["pp2"]["chat"]
    (choice,) = found["choices"]
    pairs = dict(pair.split(":") for pair in choice["message"]["content"].split(","))
    assert {name: float(value) for name, value in pairs.items()} == told["pp2"]["rewards"][0]
    assert (found["object"], found["model"], choice["finish_reason"]) == ("chat.completion", NAME, "stop")
    assert choice["message"]["role"] == "assistant"
    assert found["usage"]["total_tokens"] == found["usage"]["prompt_tokens"] > 5


def test_several_conversations_are_several_choices(told) -> None:
    choices = told["tp2"]["several"]["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]
    values = [[token["logprob"] for token in choice["logprobs"]["content"]] for choice in choices]
    rewards = told["tp2"]["rewards"][1:3]  # the first prompt has one candidate, the second two
    assert values == [pytest.approx(list(one.values()), abs=1.01e-4) for one in rewards]


def test_token_ids_are_rated_as_their_messages(told, alone) -> None:
    assert TEXT_ONLY == "p0" and not QUESTIONS[0][1]
    data = told["tp2"]["ids"]["data"]
    assert [one["probs"] for one in data] == [pytest.approx(alone[0], abs=1e-4)] * 2


def test_pooling_gives_the_values_alone_or_packed(told) -> None:
    (one,) = told["tp2"]["pooling"]["data"]
    assert one["object"] == "pooling" and one["data"] == pytest.approx(
        list(told["tp2"]["rewards"][0].values()), abs=1.01e-4
    )
    packed = base64.b64decode(told["tp2"]["packed"]["data"][0]["data"])
    assert struct.unpack("<5f", packed) == pytest.approx(one["data"])


def test_ignored_fields_are_named(told) -> None:
    assert told["tp2"]["ignored"]["x-ignored-fields"] == "top_k"


@pytest.mark.parametrize(
    ("case", "status", "says"),
    [
        ("question", 400, "the last message is of the user, but this model rates answers"),
        ("model", 404, f"there is no model 'another'; this is {NAME}"),
        ("stream", 400, "stream"),
        ("long", 400, f"this model has {LENGTH} positions"),
        ("json", 400, "the body is not JSON"),
        ("none", 400, "give messages or input, one of them"),
        ("both", 400, "give messages or input, one of them"),
        ("empty", 400, "there is nothing to rate"),
        ("image", 400, "input cannot show pictures"),
        ("token", 400, "token 1000000, and the tokenizer has"),
        ("nested", 400, "messages[1]: the last message is of the user"),
        ("many", 400, f"{WAITING + 1} answers at once, and room for {WAITING}"),
    ],
)  # fmt: skip
def test_what_cannot_be_rated_is_refused_with_the_reason(case: str, status: int, says: str, told) -> None:
    found, error = told["tp2"]["refused"][case]
    assert found == status and says in error["message"]


def test_metrics_count_what_was_rated(told, alone) -> None:
    page = told["pp2"]["metrics"]
    rated = (
        len(alone) * 3 + 1 + 2 + 2 + 1 + 1 + 1
    )  # rewards, both classify calls; chat, several, ids, pooling twice, ignored
    assert f'nemo_mm_align_request_success_total{{finished_reason="stop",model_name="{NAME}"}} {rated}.0' in page
    assert f'nemo_mm_align_num_requests_waiting{{model_name="{NAME}"}} 0.0' in page
