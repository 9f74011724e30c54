"""Decoding in every layout: against transformers, against itself in other batches, cached against computed afresh.

All of it in float64 (see tests/float64.py): where two tokens are about as probable, or a random number falls on the border
of two, fp32's rounding would choose, and that differs between layouts, batches and kinds of CPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_mm_align.inference.loading import open_for_inference
from nemo_mm_align.model.config import ParallelConfig
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.images import load_image
from nemo_mm_align.schema.records import Prompt, read_records
from tests.decoding_model import GREEDY, SAMPLED, STOP_IDS, TEMPLATE, make_folder, make_prompts
from tests.distributed import run_distributed
from tests.float64 import TOLERANCE, Float64
from tests.tiny_llava import IMAGE_TOKEN

pytestmark = pytest.mark.parallel

PROMPTS = 12
LAYOUTS = {"dp2": (2, 1, 1, 0), "tp2": (2, 2, 1, 0), "pp2": (2, 1, 2, 1), "tp2pp2": (4, 2, 2, 3)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, helpsteer: AttributeSchema) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("decoding")
    prompts = make_prompts(folder / "prompts", PROMPTS)
    (prompts.parent / "schema.json").write_text(helpsteer.model_dump_json(), encoding="utf-8")
    return make_folder(folder / "model"), prompts


@pytest.fixture(scope="module")
def results(files: tuple[Path, Path]) -> dict[str, dict[str, Any]]:
    found = {}  # under dp2 each rank decodes a batch by itself: it stands for one process as well
    for name, (ranks, *layout) in LAYOUTS.items():
        out = files[1].parent / f"{name}.json"
        run_distributed("tests.parallel.decoding_worker", ranks, *files, out, *layout)
        found[name] = json.loads(out.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def reference(files: tuple[Path, Path]) -> tuple[Any, list[dict[str, Any]]]:
    """The model of transformers, and its inputs, one prompt at a time, so that no padding is involved."""
    from transformers import LlavaForConditionalGeneration

    folder, path = files
    opened = open_for_inference(folder, ParallelConfig(), "fp32", TEMPLATE)
    with Float64():
        model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float64).eval()
    inputs = []
    for prompt in read_records(path, Prompt):
        ids = torch.tensor([opened.encoder.encode_prompt(prompt.turns)])
        pixels = [torch.from_numpy(opened.image_processor(load_image(path.parent / name))) for name in prompt.images]
        inputs.append({"input_ids": ids, "pixel_values": torch.stack(pixels) if pixels else None})
    return model, inputs


@pytest.fixture(scope="module")
def transformers_answers(reference: tuple[Any, list[dict[str, Any]]]) -> list[list[int]]:
    """Greedy answers of transformers."""
    model, inputs = reference
    answers = []
    for one in inputs:
        ids = one["input_ids"]
        with Float64():
            output = model.generate(
                **one,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=GREEDY.max_new_tokens,
                eos_token_id=STOP_IDS,
                pad_token_id=0,
                suppress_tokens=[IMAGE_TOKEN],
            )
        answers.append(output[0, ids.shape[1] :].tolist())
    return answers


def test_greedy_equals_transformers_in_every_layout(results, transformers_answers):
    lengths = {len(answer) for answer in transformers_answers}
    assert len(lengths) >= 4 and GREEDY.max_new_tokens in lengths, "rows must end at different steps"
    assert len({tuple(answer) for answer in transformers_answers}) == PROMPTS
    for name, result in results.items():
        for (answer,), expected in zip(result["greedy"], transformers_answers, strict=True):
            stopped = expected[-1] in STOP_IDS
            assert answer == [expected[:-1] if stopped else expected, "stop" if stopped else "length"], name


def test_the_layout_is_the_one_asked_for(results):
    for name, (ranks, tensor, pipeline, _) in LAYOUTS.items():
        layout = results[name]["layout"]
        assert (layout["world_size"], layout["data_parallel_size"]) == (ranks, ranks // (tensor * pipeline))


def test_samples_depend_on_neither_layout_nor_batch(results):
    reference = results["dp2"]["sampled"]
    assert len({tuple(ids) for row in reference for ids, _ in row}) > 0.9 * PROMPTS * SAMPLED.num_samples
    assert {reason for row in reference for _, reason in row} == {"stop", "length"}
    for name, result in results.items():
        assert result["sampled"] == reference, name
        assert result["one_by_one"] == reference, name


def test_a_session_that_one_rank_leads_gives_the_same_answers(results):
    for name, result in results.items():
        assert result["led"] == result["sampled"] * 2, name


def test_an_engine_gives_the_same_answers(results):
    for name, result in results.items():
        assert result["served"] == result["sampled"], name


@torch.no_grad()
def expected_logprobs(model: Any, inputs: dict[str, Any], answer: list[int]) -> torch.Tensor:
    """Of each token of an answer and of what may follow it, [tokens + 1, V], as transformers has it."""
    ids = inputs["input_ids"]
    whole = torch.cat([ids, torch.tensor([answer], dtype=torch.int64)], dim=1)
    with Float64():
        logits_1SV = model(**{**inputs, "input_ids": whole}).logits
        logits_1SV[..., IMAGE_TOKEN] = float("-inf")
        return logits_1SV[0, ids.shape[1] - 1 :].log_softmax(dim=-1)


def test_log_probabilities_are_those_of_transformers_in_every_layout(results, reference):
    """Of answers that were drawn at another temperature, from the likeliest tokens alone."""
    model, inputs = reference
    samples, compared = SAMPLED.num_samples, 0
    answers = [answer for group in results["dp2"]["sampled"] for answer, _ in group] * 2
    for row, answer in enumerate(answers):
        prompt = row // samples % PROMPTS
        asked = [None, 0, 3][prompt % 3]
        expected_SV = None if asked is None else expected_logprobs(model, inputs[prompt], answer)
        for name, result in results.items():
            told = result["told"][row]
            if asked is None:
                assert set(told) == {None}, name
                continue
            assert [token for token, *_ in told][: len(answer)] == answer, name
            assert len(told) - len(answer) == (told[-1][0] in STOP_IDS), "a stop token's is told as well"
            for (token, logprob, top), expected_V in zip(told, expected_SV, strict=False):
                values, likeliest = expected_V.topk(asked)
                assert logprob == pytest.approx(float(expected_V[token]), abs=TOLERANCE), name
                assert [place for place, _ in top] == likeliest.tolist(), name
                assert [value for _, value in top] == pytest.approx(values.tolist(), abs=TOLERANCE), name
                compared += 1
    assert compared > 4 * 2 * PROMPTS * samples


def test_dialogues_are_rolled_out_as_if_each_question_were_asked_alone(results):
    reference = results["dp2"]["rolled_out"]
    assert [len(answers) for answers in reference] == [1, 2, 3] * 2
    assert all(len({answer["text"] for answer in answers}) == len(answers) for answers in reference)
    for name, result in results.items():
        assert result["turn_by_turn"] == reference, name
        assert result["rolled_out"] == reference, name


def test_a_picture_that_cannot_be_read_is_heard_of_in_every_layout(results):
    for name, result in results.items():
        assert "none/" in result["refused"] and "Nothing was generated" in result["refused"], name


def test_generator_gathers_the_replicas_and_asks_for_attributes(results):
    reference = results["dp2"]["records"]
    asked = [record["sampling"].get("attributes") for record in reference]
    assert asked[:2] == [None, {"helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 2, "verbosity": 0}]
    assert [record["prompt_id"] for record in reference[::2]] == [f"p{number}" for number in range(PROMPTS)]
    pairs = zip(reference[::2], reference[1::2], strict=True)
    assert all(plain["candidates"] != steered["candidates"] for plain, steered in pairs)
    for name, result in results.items():
        assert result["records"] == reference, name


def test_cached_logits_equal_those_computed_afresh(results):
    assert all(result["cache_error"] <= TOLERANCE for result in results.values())
