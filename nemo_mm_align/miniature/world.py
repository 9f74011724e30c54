"""Builds the miniature world in a folder: images as PNG files and, beside them, JSONL files with relative image paths.

    images/                      easy-VQA's and the drawn charts
    {train,dev,heldout}.jsonl    prompts: alignment, choice of settings, final figures (no image or wording in common)
    base_{text,captions,visual}.jsonl   training examples that make the base (images apart from all of the above)
    base_seen.jsonl             those images and what they show, for the tower

The same settings give the same files byte for byte.
"""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import field_validator

from nemo_mm_align.core.configuration import Count, Natural, Seed, Share, StrictModel
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.miniature.answers import Fault, write_answer
from nemo_mm_align.miniature.sources import charts, easyvqa
from nemo_mm_align.miniature.sources.captions import caption
from nemo_mm_align.miniature.sources.text import text_question
from nemo_mm_align.miniature.truth import Scene, Split, Truth
from nemo_mm_align.schema.examples import TrainingExample
from nemo_mm_align.schema.records import Prompt, Record, Turn, write_records

logger = logging.getLogger(__name__)

SEEN = "base_seen.jsonl"
PROMPT_SPLITS: tuple[Split, ...] = ("train", "dev", "heldout")


class SplitSize(StrictModel):
    """Prompts of one split: about easy-VQA images, about charts, text only. Every image prompt has its own image."""

    easyvqa: Natural
    charts: Natural
    text: Natural


class BaseSize(StrictModel):
    """Examples that make the base, and the shares of what its visual answers are like."""

    easyvqa_images: Natural = 2100
    charts: Natural = 3000
    text: Natural = 24000
    captions: Natural = 24000
    caption_question_share: Share = 0.8
    """Share of questions with short right answers among the captions: they ground the words far sooner than captions alone."""
    caption_questions: Count = 4
    """Questions about one picture, as one conversation: what a picture shows is learnt four times as often per step."""
    caption_text_share: Share = 0.25
    visual: Natural = 32000
    visual_text_share: Share = 0.12
    visual_look_share: Share = 0.3
    """Share of pictures looked at as among the captions, answers of every length: what was learnt to be seen is not lost."""
    absent_share: Share = 0.5
    faults: dict[Fault, Share] = {"right": 0.3, "wrong": 0.1, "invented": 0.4, "incoherent": 0.2}
    verbosity: tuple[Share, Share, Share, Share, Share] = (0.25, 0.18, 0.2, 0.1, 0.27)
    """Shares of levels 0 to 4 among the visual answers that are asked of the grammar; faults make answers longer."""

    @field_validator("faults", "verbosity")
    @classmethod
    def _are_not_all_zero(cls, shares: Any) -> Any:
        if not any(shares.values() if isinstance(shares, dict) else shares):
            raise ValueError("all shares are 0; give at least one that is not")
        return shares


class WorldSettings(StrictModel):
    """Everything that decides what a world contains."""

    seed: Seed = 1
    absent_share: Share = 0.5
    """Share of absent-object questions among the prompts' questions about one thing."""
    train: SplitSize = SplitSize(easyvqa=1200, charts=1200, text=3000)
    dev: SplitSize = SplitSize(easyvqa=150, charts=150, text=100)
    heldout: SplitSize = SplitSize(easyvqa=250, charts=250, text=200)
    base: BaseSize = BaseSize()


class Seen(Record):
    """An image file, relative to the world's folder, and what it shows, as the tower is taught it."""

    image: str
    scene: Scene


class Picture(NamedTuple):
    """An image file, relative to the world's folder, and what it shows."""

    path: str
    scene: Scene


def _pool(settings: WorldSettings, out: Path) -> dict[Split, tuple[list[Picture], list[Picture]]]:
    """Images of each split, easy-VQA's and charts, written under ``images/``; no image is in two splits."""
    rng = random.Random(f"pictures-{settings.seed}")
    train, test = easyvqa.load_scenes("train"), easyvqa.load_scenes("test")
    rng.shuffle(train)
    rng.shuffle(test)
    base: Split = "base"
    wanted = {base: (settings.base.easyvqa_images, settings.base.charts)}
    wanted |= {split: (getattr(settings, split).easyvqa, getattr(settings, split).charts) for split in PROMPT_SPLITS}
    seen: set[Scene] = set()
    pool: dict[Split, tuple[list[Picture], list[Picture]]] = {}
    for split in (*PROMPT_SPLITS, base):
        shapes, bars = wanted[split]
        source = test if split == "heldout" else train
        if shapes > len(source):
            raise UserError(f"easy-VQA has {len(source)} images left for {split}; asked for {shapes}. Ask for fewer.")
        taken, source[:shapes] = source[:shapes], []
        pool[split] = ([_copy(out, path, split, scene) for path, scene in taken], _draw(rng, out, split, bars, seen))
    return pool


def _copy(out: Path, path: Path, split: Split, scene: Scene) -> Picture:
    part = "test" if split == "heldout" else "train"
    target = f"images/easyvqa_{part}_{path.stem}.png"
    shutil.copyfile(path, out / target)
    return Picture(target, scene)


def _draw(rng: random.Random, out: Path, split: Split, count: int, seen: set[Scene]) -> list[Picture]:
    pictures: list[Picture] = []
    while len(pictures) < count:
        scene = charts.draw_scene(rng)
        if scene in seen:
            continue
        seen.add(scene)
        target = f"images/chart_{split}_{len(pictures):05d}.png"
        charts.draw_chart(scene).save(out / target)
        pictures.append(Picture(target, scene))
    return pictures


def ask(rng: random.Random, picture: Picture, split: Split, absent_share: float) -> tuple[str, Truth]:
    """Draw one question about a picture."""
    draw = charts.chart_question if picture.scene.bars else easyvqa.shape_question
    return draw(rng, picture.scene, split, absent_share)


def _image_turn(question: str) -> Turn:
    return Turn(role="user", content=f"<image>\n{question}")


def _prompts(settings: WorldSettings, split: Split, pictures: list[Picture], posed: set[str]) -> Iterator[Prompt]:
    rng = random.Random(f"{split}-{settings.seed}")
    for number, picture in enumerate(pictures):
        question, truth = ask(rng, picture, split, settings.absent_share)
        identity = f"{split}-{truth.scene.source}-{number:05d}"
        metadata = {"truth": truth.model_dump(exclude_defaults=True)}
        yield Prompt(id=identity, images=(picture.path,), turns=(_image_turn(question),), metadata=metadata)
    for number in range(getattr(settings, split).text):
        question, truth = _new_text(rng, split, posed)
        metadata = {"truth": truth.model_dump(exclude_defaults=True)}
        yield Prompt(id=f"{split}-text-{number:05d}", turns=(Turn(role="user", content=question),), metadata=metadata)


def _new_text(rng: random.Random, split: Split, posed: set[str]) -> tuple[str, Truth]:
    """Draw an instruction that no other split has posed; opposites and pairs of numbers are too few for that."""
    for _ in range(1000):
        question, truth = text_question(rng, split)
        key = f"{truth.question.task} {question.split(': ', 1)[-1]}"
        if key not in posed or truth.question.task in ("opposite", "larger"):
            posed.add(key)
            return question, truth
    raise UserError(f"no new text instruction left for {split}; ask for fewer text prompts.")


def _text_examples(rng: random.Random, count: int, posed: set[str], name: str) -> Iterator[TrainingExample]:
    done = 0
    while done < count:
        question, truth = text_question(rng, "base")
        task = truth.question.task
        if task not in ("opposite", "larger") and f"{task} {question.split(': ', 1)[-1]}" in posed:
            continue
        turns = (Turn(role="user", content=question), Turn(role="assistant", content=truth.expected))
        yield TrainingExample(id=f"{name}-{done:06d}", turns=turns)
        done += 1


def _captions(rng: random.Random, size: BaseSize, pictures: list[Picture], posed: set[str]) -> list[TrainingExample]:
    texts = round(size.captions * size.caption_text_share)
    examples = list(_text_examples(rng, texts, posed, "captions-text"))
    for number in range(size.captions - texts):
        picture = rng.choice(pictures)
        turns = tuple(_turns(_look(rng, size, picture, longest=1)))
        examples.append(TrainingExample(id=f"captions-{number:06d}", images=(picture.path,), turns=turns))
    rng.shuffle(examples)
    return examples


def _look(rng: random.Random, size: BaseSize, picture: Picture, longest: int) -> list[tuple[str, str]]:
    """Draw what is said about a picture: a request and its caption, or questions with right answers up to verbosity `longest`."""
    if rng.random() >= size.caption_question_share:
        return [caption(rng, picture.scene)]
    asked = [ask(rng, picture, "base", size.absent_share) for _ in range(size.caption_questions)]
    return [(text, write_answer(rng, truth, rng.randint(0, longest), rng.randint(0, 4))) for text, truth in asked]


def _turns(said: list[tuple[str, str]]) -> Iterator[Turn]:
    for number, (question, answer) in enumerate(said):
        yield Turn(role="user", content=question) if number else _image_turn(question)
        yield Turn(role="assistant", content=answer)


def _visual(rng: random.Random, size: BaseSize, pictures: list[Picture], posed: set[str]) -> list[TrainingExample]:
    texts = round(size.visual * size.visual_text_share)
    examples = list(_text_examples(rng, texts, posed, "visual-text"))
    for number in range(size.visual - texts):
        picture = rng.choice(pictures)
        looks = rng.random() < size.visual_look_share
        turns = tuple(_turns(_look(rng, size, picture, longest=4) if looks else [_styled(rng, size, picture)]))
        examples.append(TrainingExample(id=f"visual-{number:06d}", images=(picture.path,), turns=turns))
    rng.shuffle(examples)
    return examples


def _styled(rng: random.Random, size: BaseSize, picture: Picture) -> tuple[str, str]:
    """Draw a question about a picture and an answer of any style, right or not."""
    question, truth = ask(rng, picture, "base", size.absent_share)
    fault = rng.choices(list(size.faults), weights=list(size.faults.values()))[0]
    verbosity = rng.choices(range(5), weights=size.verbosity)[0]
    return question, write_answer(rng, truth, verbosity, rng.randint(0, 4), fault)


def build_world(out: str | Path, settings: WorldSettings, with_base: bool = True) -> dict[str, int]:
    """Write the world under `out`; return the number of records per JSONL file.

    Args:
        out: folder, made if missing; files of the same name are replaced.
        settings: sizes, shares and seed.
        with_base: also write the base's training examples and images.

    Raises:
        UserError: more images are asked for than easy-VQA has.
    """
    out = Path(out)
    (out / "images").mkdir(parents=True, exist_ok=True)
    if not with_base:
        settings = settings.model_copy(update={"base": BaseSize(easyvqa_images=0, charts=0)})
    pool = _pool(settings, out)
    counts: dict[str, int] = {}
    posed: set[str] = set()
    for split in PROMPT_SPLITS:
        shapes, bars = pool[split]
        counts[split] = write_records(out / f"{split}.jsonl", _prompts(settings, split, [*shapes, *bars], posed))
    if with_base:
        counts |= _write_base(out, settings, [*pool["base"][0], *pool["base"][1]], posed)
    logger.info("miniature world in %s: %s", out, ", ".join(f"{name} {count}" for name, count in counts.items()))
    return counts


def _write_base(out: Path, settings: WorldSettings, pictures: list[Picture], posed: set[str]) -> dict[str, int]:
    """Each part draws from a generator of its own, so that another size of one leaves the others as they are."""
    size = settings.base

    def source(part: str) -> random.Random:
        return random.Random(f"base-{part}-{settings.seed}")

    examples = {
        "base_text": _text_examples(source("text"), size.text, posed, "text"),
        "base_captions": _captions(source("captions"), size, pictures, posed),
        "base_visual": _visual(source("visual"), size, pictures, posed),
    }
    write_records(out / SEEN, (Seen(image=picture.path, scene=picture.scene) for picture in pictures))
    return {name: write_records(out / f"{name}.jsonl", records) for name, records in examples.items()}
