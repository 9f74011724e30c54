"""mdpo: parts of images, samples that see them, and the loss by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nemo_mm_align.capacity.job import Workload, read_job
from nemo_mm_align.capacity.run import compose_training
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.datasets.collate import collate
from nemo_mm_align.datasets.kinds import IMAGE_PAIRS, PAIRS, check_kind
from nemo_mm_align.datasets.kinds.image_pairs import CropRange
from nemo_mm_align.datasets.kinds.kind import SampleKind
from nemo_mm_align.datasets.rows import batch_length, row_lengths
from nemo_mm_align.datasets.sample import Sample, SampleStore
from nemo_mm_align.objectives.common_metrics import common_metrics
from nemo_mm_align.objectives.objective import TOKEN_LOSSES, Reading, Reads
from nemo_mm_align.recipes.registry import find_recipe
from nemo_mm_align.schema.chat_template import ChatTemplate
from nemo_mm_align.schema.crops import Crop
from nemo_mm_align.schema.examples import PreferenceExample
from nemo_mm_align.schema.images import ImageProcessor
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.schema.records import Turn
from nemo_mm_align.training.data import BatchShape, Collator
from nemo_mm_align.training.reference import sample_key
from nemo_mm_align.training.work import work_of
from tests.unit.test_attribute_dpo import reading_of, softplus
from tests.unit.toy_tokenizers import word_level

PLAIN_KEY, PLAIN_PRINT = "1c3b15d01d6f8e3dd889bf82", "a83ec2c01227aa46"
"""Of a pair with an image before there were views."""
KIND = replace(IMAGE_PAIRS, crops=CropRange(0.01, 0.2, 0))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    template = ChatTemplate(
        name="t", user_prefix="USER: ", user_suffix=" ", assistant_prefix="ASSISTANT: ", stop="</s>"
    )
    tokenizer = word_level()
    return Encoder(tokenizer, template, tokenizer.convert_tokens_to_ids("<image>"), 4, None)


def pair(name: str, *images: Path | str) -> PreferenceExample:
    turns = (Turn(role="user", content="<image>" * len(images) + "What is in the image?"),)
    return PreferenceExample(
        id=name, turns=turns, images=tuple(map(str, images)), chosen="yes", rejected="A red circle ."
    )


def samples_of(encoder: Encoder, *pairs: PreferenceExample, kind: SampleKind = KIND) -> list[Sample]:
    found = [kind.encode(example, encoder) for example in pairs]
    return [replace(sample, reference_log_probs=[-2.0] * len(sample.sequences)) for sample in found]


def batch_of(encoder: Encoder, samples: list[Sample], shared: bool) -> Batch:
    length = batch_length(samples, 1, shared)
    return collate(samples, length, 0, encoder.image_token_id, 4, None, shared, roles=IMAGE_PAIRS.roles)


@pytest.mark.parametrize("size", [(640, 480), (1, 1), (1, 900), (3000, 2), (7, 5)])
def test_a_part_has_an_area_within_its_range_in_images_of_any_size(size: tuple[int, int]) -> None:
    width, height = size
    shares, aspects = [], []
    for seed in range(400):
        left, top, right, bottom = Crop(0.01, 0.2, seed).box(width, height)
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        shares.append((right - left) * (bottom - top) / (width * height))
        aspects.append((right - left) / (bottom - top))
    assert 0.01 <= min(shares) < 0.02 and 0.19 < max(shares) <= 0.2 + 1e-9
    assert np.mean(shares) == pytest.approx(0.105, abs=0.01), "uniform"
    if size == (640, 480):
        assert 0.74 < min(aspects) < 0.77 and 1.3 < max(aspects) < 1.34
        assert np.mean(np.log(aspects)) == pytest.approx(0, abs=0.02)


def test_a_part_is_drawn_by_its_seed_alone_and_stretched_to_the_image() -> None:
    """Of an image whose red is its column: the part's columns run from its left to its right edge."""
    image = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (100, 1, 3)))
    crop = Crop(0.05, 0.05, 3)
    left, _, right, _ = crop.box(200, 100)
    part = crop(image)
    assert part.size == (200, 100) and part.tobytes() == Crop(0.05, 0.05, 3)(image).tobytes()
    reds = np.asarray(part)[0, :, 0].astype(float)
    assert abs(reds[0] - left) <= 1 and abs(reds[-1] - right) <= 1 and reds[-1] > reds[0] + 20
    assert Crop(0.05, 0.05, 4).box(200, 100) != crop.box(200, 100)
    assert [round(edge, 6) for edge in Crop(0.01, 0.2, 7).box(100, 50)] == [53.959772, 2.107199, 71.063913, 23.016821]
    pixel = Image.new("RGB", (1, 1), (9, 8, 7))
    assert Crop(0.01, 0.2, 0)(pixel).getpixel((0, 0)) == (9, 8, 7)


def test_a_sample_sees_the_same_parts_whoever_is_beside_it(encoder: Encoder) -> None:
    one, two, text = samples_of(encoder, pair("one", "a.png", "b.png"), pair("two", "a.png"), pair("text"))
    assert one.roles == ("chosen", "rejected", "chosen_other_image") and text.roles == ("chosen", "rejected")
    assert one.sequences[2] == one.sequences[0] and one.sequences[1] != one.sequences[0]
    assert one.views[:2] == ((), ()) and len(set(one.views[2])) == 2 and one.views[2][0] != two.views[2][0]
    assert samples_of(encoder, pair("one", "a.png", "b.png"))[0] == one
    other = replace(KIND, crops=CropRange(0.01, 0.2, 1))
    assert samples_of(encoder, pair("one", "a.png", "b.png"), kind=other)[0].views != one.views
    assert SampleStore([one, text])[0] == one and SampleStore([one, text])[1] == text
    assert samples_of(encoder, pair("two", "a.png"), kind=IMAGE_PAIRS)[0].roles == ("chosen", "rejected")
    with pytest.raises(ValueError, match="sample two: a view has as many parts as there are images, 1"):
        replace(two, views=((), (), one.views[2]))


def test_rows_hold_sequences_that_see_the_same(encoder: Encoder, tmp_path: Path) -> None:
    for name, colour in (("a", 10), ("b", 90)):
        Image.fromarray(np.random.default_rng(colour).integers(0, 255, (30, 20, 3), np.uint8)).save(
            tmp_path / f"{name}.png"
        )
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    one, text, two = samples = samples_of(encoder, pair("one", a, b), pair("text"), pair("two", a))
    chosen, rejected = (len(sequence) - 1 for sequence in one.sequences[:2])
    prefix = len(encoder.encode_prompt(pair("one", a, b).turns)) - 1
    assert row_lengths(one, True) == [chosen + rejected - prefix, chosen]
    assert row_lengths(one, False) == [chosen, rejected, chosen]
    processor, shape = ImageProcessor(image_size=8), BatchShape(shared_prefix=True, equal_rows=True)
    collator = Collator(encoder, processor, shape, with_images=True, roles=IMAGE_PAIRS.roles)
    assert [collator.rows([sample]) for sample in samples] == [2, 1, 2]
    first, second = collator.batches([[one, text], [two]], collator.length(samples))
    assert first.input_ids_BS.shape == second.input_ids_BS.shape == (3, collator.length(samples))
    assert first.images_NCHW.shape == (4, 3, 8, 8) and first.image_index_K.tolist() == [0, 2, 1, 3]
    assert (first.sequence_counts, first.num_sequences, second.num_sequences) == ((3, 2), 5, 3)
    assert first.roles["chosen_other_image"].tolist() == [2]
    processed = processor(one.views[2][0](Image.open(a)))
    assert np.array_equal(first.images_NCHW[1].numpy(), processed)
    assert not torch.equal(first.images_NCHW[0], first.images_NCHW[1])
    alone = collate([one], collator.length([one]), 0, encoder.image_token_id, 4, collator._load, False)
    assert alone.image_index_K.tolist() == [0, 2, 0, 2, 1, 3] and torch.equal(alone.images_NCHW, first.images_NCHW)
    work = work_of([one], True)
    assert (work.tokens, work.images) == (chosen + rejected - prefix + chosen, 4)


def test_keys_tell_parts_and_are_as_ever_without(encoder: Encoder) -> None:
    (seen,) = samples_of(encoder, pair("one", "a.png"))
    whole = replace(seen, views=())
    plain = Sample("a", [Path("a.png")], whole.sequences[:2])
    keys = [sample_key(sample, str) for sample in (seen, whole, plain)]
    assert len(set(keys)) == 3 and sample_key(replace(seen, id="other"), str) == keys[0]
    assert sample_key(replace(plain, views=((), ())), str) == keys[2] == PLAIN_KEY
    prints = [SampleStore([sample]).fingerprint() for sample in (seen, whole, plain)]
    assert len(set(prints)) == 3 and prints[2] == PLAIN_PRINT


@pytest.mark.parametrize("shared", [True, False])
def test_the_loss_is_what_its_docstring_says(encoder: Encoder, shared: bool) -> None:
    """Log-ratios to the reference: 1 and 0 with an image, .25 beside its part; .5 and -1 of text alone; -1, .5 and -.5."""
    batch = batch_of(encoder, samples_of(encoder, pair("a", "a.png"), pair("text"), pair("b", "b.png")), shared)
    ratios = [1.0, 0.0, 0.25, 0.5, -1.0, -1.0, 0.5, -0.5]
    reading = reading_of(batch, [ratio - 2 for ratio in ratios])
    pairs = softplus(-0.2 * 1) + softplus(-0.2 * 1.5) + softplus(0.2 * 1.5)
    image = softplus(-0.2 * 0.75) + softplus(0.2 * 0.5)
    anchor = softplus(-0.2 * 1 + 0.3) + softplus(-0.2 * 0.5 + 0.3) + softplus(0.2 * 1 + 0.3)
    for weights, expected in (
        ({"image_weight": 1.0, "anchor_weight": 0.0}, pairs + image),
        ({"image_weight": 0.5, "anchor_weight": 2.0}, pairs + 0.5 * image + 2 * anchor),
    ):
        recipe = find_recipe("mdpo").configured(beta=0.2, anchor_margin=0.3, **weights)
        output = recipe.loss(reading, batch)
        assert float(output.loss_sum) == pytest.approx(expected, rel=1e-9) and int(output.count) == 3
    told = {name: (float(total), float(weight)) for name, (total, weight) in output.metrics.items()}
    assert told["loss_image"] == (pytest.approx(0.5 * image), 3)
    assert told["rewards/chosen_other_image"] == (pytest.approx(0.2 * -0.25), 2)
    assert told["rewards/image_margins"] == (pytest.approx(0.2 * (0.75 - 0.5)), 2)
    assert told["rewards/image_accuracies"] == (1, 2)
    assert told["log_ratio_to_reference"] == (pytest.approx((1 + 0 + 0.5 - 1 - 1 + 0.5) / 2), 3)


def test_a_micro_batch_of_text_alone_has_the_same_metrics_and_no_weight(encoder: Encoder) -> None:
    recipe, found = find_recipe("mdpo").configured(anchor_weight=0.0), []
    for example in (pair("a", "a.png"), pair("text")):
        batch = batch_of(encoder, samples_of(encoder, example), True)
        reading = reading_of(batch, [-1.0, -4.0, -2.5][: batch.num_sequences])
        found.append((recipe.loss(reading, batch), common_metrics(TOKEN_LOSSES, reading, batch)))
    (_, _), (text, common) = found
    assert all(one.metrics.keys() == text.metrics.keys() for one, _ in found)
    assert float(text.metrics["rewards/image_accuracies"][1]) == float(common["logps/chosen_other_image"][1]) == 0
    same = find_recipe("dpo").configured().loss(reading, batch)
    assert float(text.loss_sum) == pytest.approx(float(same.loss_sum), rel=1e-9)


def test_what_is_seen_otherwise_is_not_to_become_likelier(encoder: Encoder) -> None:
    batch = batch_of(encoder, samples_of(encoder, pair("a", "a.png")), False)
    labelled_BS = (batch.labels_BS >= 0).float()
    reading = Reading(labelled_BS, entropies_BS=labelled_BS, right_BS=labelled_BS)
    found = common_metrics(Reads(token_losses=True, distribution=True), reading, batch)
    assert float(found["mean_token_accuracy"][1]) == float(found["length_chosen"][0])


def test_settings_are_what_the_part_is_drawn_by() -> None:
    recipe = find_recipe("mdpo").configured(crop_least=0.3, crop_most=0.4, crop_seed=5)
    assert recipe.sample_kind(IMAGE_PAIRS) == replace(IMAGE_PAIRS, crops=CropRange(0.3, 0.4, 5))
    assert find_recipe("mdpo").configured(image_weight=0.0).sample_kind(IMAGE_PAIRS) == IMAGE_PAIRS
    assert find_recipe("dpo").configured().sample_kind(PAIRS) is PAIRS
    with pytest.raises(UserError, match="recipe.crop_least=0.3 is above recipe.crop_most=0.2"):
        find_recipe("mdpo").configured(crop_least=0.3)
    with pytest.raises(UserError, match="recipe.crop_most=1.5"):
        find_recipe("mdpo").configured(crop_most=1.5)


def test_data_without_any_image_are_refused() -> None:
    check_kind(IMAGE_PAIRS, [pair("text"), pair("a", "a.png")], "x.jsonl", "mdpo", "preference")
    with pytest.raises(UserError, match="x.jsonl: recipe=mdpo needs pairs with images; none of them has any: a recipe"):
        check_kind(IMAGE_PAIRS, [pair("text")], "x.jsonl", "mdpo", "preference")


def test_the_estimate_counts_a_row_and_an_image_more() -> None:
    words = ["recipe=mdpo", "model=llava15_7b", "model.micro_batch_size=2", "model.global_batch_size=8"]
    jobs = {}
    for shared in ("true", "false"):
        job = read_job(compose_training([*words, f"recipe.shared_prefix={shared}"]), 1, 1)
        jobs[shared] = replace(job, workload=Workload(900, 100))
    packed, apart = jobs["true"], jobs["false"]
    assert (packed.rows, packed.row_length, packed.images, packed.labelled) == (4, 999, 4, 600)
    assert (apart.rows, apart.row_length, apart.images, apart.labelled) == (6, 899, 4, 600)
    assert math.isclose(packed.usual.workload.answer, 100)
