"""Where everything of a run lies.

OUT/world/                  images and prompts
OUT/base/                   the base as a Hugging Face folder, and how it was trained
OUT/seed_0/                 candidates, annotations, training sets, runs of the methods, held-out answers
OUT/results.json, report.html
"""

from __future__ import annotations

from pathlib import Path

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.results import BRIEF, UNASKED
from nemo_mm_align.miniature.settings import MiniatureSettings
from nemo_mm_align.recipes.registry import find_recipe

SHIPPED_BASE = Path(__file__).resolve().parent / "base"
TEXT_BEFORE, CRITERIA = "text_before.jsonl", "criteria.json"


class MiniatureRun:
    """A run's settings, its files, and whose answers it compares.

    Raises:
        UserError: a number of processes that the layout does not divide, or no shipped base.
    """

    def __init__(self, settings: MiniatureSettings) -> None:
        self.settings = settings
        self.out = settings.out
        if settings.processes % settings.tensor_model_parallel_size:
            raise UserError(
                f"processes={settings.processes} is not a multiple of tensor_model_parallel_size="
                f"{settings.tensor_model_parallel_size}."
            )
        if settings.base == "shipped" and not (SHIPPED_BASE / "config.json").is_file():
            raise UserError(f"{SHIPPED_BASE}: the shipped base is missing; set base=train to make one.")

    @property
    def seeds(self) -> list[int]:
        """Seeds of the runs."""
        return [self.settings.first_seed + index for index in range(self.settings.seeds)]

    @property
    def world(self) -> Path:
        """The world's folder."""
        return self.out / "world"

    @property
    def training_prompts(self) -> Path:
        """Prompts whose answers are learned from."""
        return self.world / "train.jsonl"

    @property
    def evaluation_prompts(self) -> Path:
        """Prompts that the final figures rest on."""
        return self.world / f"{self.settings.evaluate_on}.jsonl"

    @property
    def steering_prompts(self) -> Path:
        """The part of them that is asked under every value of every attribute."""
        return self.world / f"steering_{self.settings.evaluate_on}.jsonl"

    @property
    def text_prompts(self) -> Path:
        """The text instructions among them."""
        return self.world / f"text_{self.settings.evaluate_on}.jsonl"

    @property
    def base(self) -> Path:
        """The base as a Hugging Face folder."""
        return self.out / "base" / "model"

    @property
    def text_before(self) -> Path:
        """Answers to the text instructions before the model saw images; missing where nobody measured them."""
        return self.out / "base" / TEXT_BEFORE

    def seed_folder(self, seed: int) -> Path:
        """Everything of one seed."""
        return self.out / f"seed_{seed}"

    def annotations(self, seed: int, model: str) -> Path:
        """Judged answers of the base or a method's model to the training prompts."""
        return self.seed_folder(seed) / ("annotations.jsonl" if model == "base" else f"annotations_{model}.jsonl")

    def answers(self, seed: int, name: str) -> Path:
        """Answers to the evaluation prompts, by one of `answering`."""
        return self.seed_folder(seed) / "answers" / f"{name}.jsonl"

    def rating_report(self, seed: int) -> Path:
        """The page on how good the attribute model is; its numbers lie beside it."""
        return self.seed_folder(seed) / "attribute_model.html"

    @property
    def steered(self) -> list[str]:
        """Methods whose models are asked for attributes."""
        return [method for method in self.settings.methods if find_recipe(method).samples.attributed]

    @property
    def answering(self) -> list[str]:
        """Whose answers are compared: the base's, each method's, of steered ones also those to other requests."""
        variants = [UNASKED, BRIEF] if self.settings.brief else [UNASKED]
        return ["base", *self.settings.methods, *(f"{name}{variant}" for variant in variants for name in self.steered)]
