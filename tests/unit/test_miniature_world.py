"""The miniature world: what it contains, that its splits are apart, and that the same seed gives the same files."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.miniature.sources import charts, easyvqa
from nemo_mm_align.miniature.sources.charts import draw_chart
from nemo_mm_align.miniature.tokenizer import build_tokenizer
from nemo_mm_align.miniature.truth import Bar, Scene, truth_of
from nemo_mm_align.miniature.world import BaseSize, SplitSize, WorldSettings, build_world
from nemo_mm_align.schema.examples import TrainingExample
from nemo_mm_align.schema.records import Prompt, read_records

SMALL = WorldSettings(
    train=SplitSize(easyvqa=60, charts=60, text=30),
    dev=SplitSize(easyvqa=30, charts=30, text=20),
    heldout=SplitSize(easyvqa=30, charts=30, text=20),
    base=BaseSize(easyvqa_images=80, charts=80, text=400, captions=100, visual=400),
)
SPLITS = ("train", "dev", "heldout")
BASE = ("base_text", "base_captions", "base_visual")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    counts = build_world(out, SMALL)
    assert counts == {
        "train": 150,
        "dev": 80,
        "heldout": 80,
        "base_text": 400,
        "base_captions": 100,
        "base_visual": 400,
    }
    return out


def records(world: Path) -> dict[str, list]:
    found: dict[str, list] = {name: list(read_records(world / f"{name}.jsonl", Prompt)) for name in SPLITS}
    return found | {name: list(read_records(world / f"{name}.jsonl", TrainingExample)) for name in BASE}


def test_same_seed_same_bytes_and_another_seed_another_world(world: Path, tmp_path: Path) -> None:
    def digest(folder: Path) -> dict[str, str]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    build_world(tmp_path / "again", SMALL)
    assert digest(tmp_path / "again") == digest(world)
    build_world(tmp_path / "other", SMALL.model_copy(update={"seed": 2}), with_base=False)
    assert digest(tmp_path / "other")["train.jsonl"] != digest(world)["train.jsonl"]


def test_prompts_do_not_depend_on_the_base_examples(world: Path, tmp_path: Path) -> None:
    build_world(tmp_path, SMALL, with_base=False)
    for split in SPLITS:
        assert (tmp_path / f"{split}.jsonl").read_bytes() == (world / f"{split}.jsonl").read_bytes()
    assert not (tmp_path / "base_text.jsonl").exists()


def test_splits_share_no_image(world: Path) -> None:
    pixels: dict[str, str] = {}
    for name, items in records(world).items():
        part = "base" if name.startswith("base") else name
        for path in {path for item in items for path in item.images}:
            with Image.open(world / path) as image:
                assert image.size == (64, 64)
                digest = hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()
            assert pixels.setdefault(digest, part) == part
    heldout = [path for prompt in records(world)["heldout"] for path in prompt.images]
    assert sum("easyvqa_test" in path for path in heldout) == 30


def _skeleton(question: str) -> str:
    """A question with everything that is drawn taken out: its wording."""
    slots = (*easyvqa.COLOURS, *easyvqa.SHAPES, "shape")
    text = question.removeprefix("<image>\n")
    text = re.sub(r"(: ).*|(opposite of |larger number, )[^?]*", r"\1\2", text)
    return re.sub(rf"\b(?:{'|'.join(slots)})\b( shape)?", "_", text)


def test_splits_share_no_wording(world: Path) -> None:
    found = records(world)
    wordings = {name: {_skeleton(item.turns[0].content) for item in items} for name, items in found.items()}
    assert not wordings["heldout"] & (wordings["train"] | wordings["dev"])
    for name in (*BASE, "train"):
        assert not wordings[name] & (wordings["dev"] | wordings["heldout"]), name


def test_every_word_asked_in_heldout_is_seen_in_the_base(world: Path) -> None:
    tokenizer, found = build_tokenizer(), records(world)

    def words(name: str) -> set[int]:
        return {index for item in found[name] for turn in item.turns for index in tokenizer(turn.content).input_ids}

    known = set.union(*(words(name) for name in BASE))
    assert words("heldout") <= known
    assert words("dev") <= known


def test_truth_of_a_chart_is_in_its_pixels() -> None:
    scene = Scene(
        source="chart", bars=(Bar(colour="red", value=2), Bar(colour="blue", value=6), Bar(colour="teal", value=4))
    )
    pixels = np.asarray(draw_chart(scene)).astype(int)
    heights = [
        int((np.abs(pixels - colour).sum(-1) < 12).any(1).sum()) for colour in ((255, 0, 0), (0, 0, 255), (0, 128, 128))
    ]
    assert [round(height / 9.5) for height in heights] == [2, 6, 4]


def test_truth_of_an_easy_vqa_image_is_in_its_pixels() -> None:
    scenes = easyvqa.load_scenes("test")
    assert len(scenes) > 850
    for path, scene in scenes[:200]:
        with Image.open(path) as image:
            colours = {colour for _, colour in image.convert("RGB").getcolors(4096) or []}
        assert charts.RGB[scene.colour] in colours


def test_half_of_the_yes_no_questions_are_about_absent_things(world: Path) -> None:
    truths = [truth_of(prompt) for prompt in records(world)["train"]]
    exist = [truth.absent for truth in truths if truth.question.kind == "exist"]
    assert 0.3 < np.mean(exist) < 0.7
    assert any(truth.absent for truth in truths if truth.question.kind == "value")


def test_more_images_than_easy_vqa_has_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="880 images left for heldout"):
        build_world(tmp_path, WorldSettings(heldout=SplitSize(easyvqa=2000, charts=0, text=0)), with_base=False)


def test_lines_are_plain_json_with_relative_images(world: Path) -> None:
    line = json.loads((world / "train.jsonl").read_text().splitlines()[0])
    assert line["metadata"]["truth"]["split"] == "train"
    assert (world / line["images"][0]).is_file()
