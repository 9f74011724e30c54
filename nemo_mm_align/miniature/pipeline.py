"""The whole loop on the miniature world, stage by stage through the same commands that a user gives on own data.

OUT/world/                  images and prompts
OUT/base/                   the base as a Hugging Face folder, and how it was trained
OUT/seed_0/                 candidates, annotations, training sets, runs of the methods, held-out answers
OUT/results.json, report.html
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from nemo_mm_align.datasets.build_settings import RANDOM_METHODS
from nemo_mm_align.errors import UserError
from nemo_mm_align.evaluation.results import BRIEF, UNASKED, variant_of
from nemo_mm_align.hashing import hash_bytes
from nemo_mm_align.miniature.attribute_model import RatedRun
from nemo_mm_align.miniature.settings import ANSWERS, MiniatureSettings
from nemo_mm_align.miniature.stages import Stage, module_command, python_command, torchrun_command
from nemo_mm_align.miniature.world import build_world
from nemo_mm_align.recipes.registry import find_recipe
from nemo_mm_align.records import Prompt, read_records, write_records
from nemo_mm_align.repository import SCRIPTS
from nemo_mm_align.run_files import METRICS_FILE, read_facts, read_metrics

logger = logging.getLogger(__name__)

SHIPPED_BASE = Path(__file__).resolve().parent / "base"
TEXT_BEFORE, CRITERIA = "text_before.jsonl", "criteria.json"
BASE_STAGES = ("text", "captions", "visual")
TEMPLATE = ("template=vicuna_v1", "template.system=''")


class MiniatureRun:
    """Knows where everything of a run lies and which commands make it."""

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
    def base(self) -> Path:
        """The base as a Hugging Face folder."""
        return self.out / "base" / "model"

    def seed_folder(self, seed: int) -> Path:
        """Everything of one seed."""
        return self.out / f"seed_{seed}"

    @property
    def evaluation_prompts(self) -> Path:
        """Prompts that the final figures rest on."""
        return self.world / f"{self.settings.evaluate_on}.jsonl"

    @property
    def steering_prompts(self) -> Path:
        """The part of them that is asked under every value of every attribute."""
        return self.world / f"steering_{self.settings.evaluate_on}.jsonl"

    def stages(self) -> list[Stage]:
        """All stages up to the held-out answers, in order."""
        return [self._world(), *self._base(), *(stage for seed in self.seeds for stage in self._seed(seed))]

    def _world(self) -> Stage:
        count = self.settings.steering_prompts

        def make() -> None:
            shutil.rmtree(self.world, ignore_errors=True)
            build_world(self.world, self.settings.world, with_base=self.settings.base == "train")
            for split in ("dev", "heldout"):
                prompts = list(read_records(self.world / f"{split}.jsonl", Prompt))
                pictures = [prompt for prompt in prompts if prompt.images]
                texts = [prompt for prompt in prompts if not prompt.images]
                spread = pictures[:: max(1, len(pictures) // max(1, count))][:count]
                write_records(self.world / f"steering_{split}.jsonl", spread)
                write_records(self.world / f"text_{split}.jsonl", texts)

        settings = self.settings.world.model_dump(mode="json") | {"steering": count, "base": self.settings.base}
        return Stage("world", make, [self.world], settings=settings)

    def _base(self) -> list[Stage]:
        if self.settings.base == "train":
            return self._trained_base()

        def copy() -> None:
            shutil.rmtree(self.base, ignore_errors=True)
            shutil.copytree(SHIPPED_BASE, self.base, ignore=shutil.ignore_patterns("text_before*", CRITERIA))
            take_text_before(SHIPPED_BASE / TEXT_BEFORE, self.text_prompts, self.text_before)

        return [Stage("base", copy, [self.base], ["world"], settings={"base": _digest(SHIPPED_BASE)})]

    @property
    def text_before(self) -> Path:
        """Answers to the text instructions before the model saw images; missing where nobody measured them."""
        return self.out / "base" / TEXT_BEFORE

    def _trained_base(self) -> list[Stage]:
        """Sight of the tower, then text, caption alignment and visual tuning (data-parallel), each from the one before."""
        runs = self.out / "base"
        blank, seeing = runs / "blank", runs / "seeing"
        sizes, seed = json.dumps(self.settings.model), str(self.settings.first_seed)
        stages = [
            Stage("base_blank", module_command("blank", str(blank), sizes, seed), [blank], ["world"]),
            Stage("base_sight", self._sight(blank, seeing, seed), [seeing], ["world", "base_blank"]),
        ]
        for index, name in enumerate(BASE_STAGES):
            start = f"model.hf_path={seeing}" if index == 0 else f"model.checkpoint={runs / BASE_STAGES[index - 1]}"
            command = torchrun_command(
                self.settings.processes,
                SCRIPTS / "train.py",
                "recipe=sft",
                "model=mini",
                start,
                f"data.train={self.world / f'base_{name}.jsonl'}",
                f"exp_manager.exp_dir={runs}",
                f"name={name}",
                *TEMPLATE,
                "precision=fp32",
                *self.settings.base_stages["all"],
                "recipe.epochs=99",  # trainer.max_steps ends it
                *self.settings.base_stages[name],
            )
            before = "base_sight" if index == 0 else f"base_{BASE_STAGES[index - 1]}"
            stages.append(
                Stage(f"base_{name}", command, [runs / name], ["world", before], progress=_steps(runs / name))
            )
        stages.append(self._generate("text_before", runs / "text", self.text_before, ["base_text"], split="text"))
        return [*stages, self._export(runs / "visual", self.base, "base_visual", "base")]

    def _sight(self, blank: Path, out: Path, seed: str) -> list[str]:
        settings = self.settings.sight.model_dump_json()
        return module_command("sight", str(blank), str(self.world), str(out), settings, seed)

    def _export(self, checkpoint: Path, out: Path, after: str, name: str) -> Stage:
        """As a Hugging Face folder, adapters merged."""
        command = python_command(SCRIPTS / "convert.py", "direction=export", f"source={checkpoint}", f"out={out}")
        return Stage(name, command, [out], [after])

    def _seed(self, seed: int) -> list[Stage]:
        stages = self._round(seed, "base", [f"checkpoint={self.base}", *TEMPLATE], ["base", "world"])
        for method in self.settings.methods:
            stages += self._align(seed, method)
        stages += [self._answers(seed, name) for name in self.answering]
        if self.settings.steering_prompts:
            stages += [self._sweep(seed, name) for name in self.steered]
        return stages + (self.rated(seed).stages() if self.settings.attribute_model else [])

    def rated(self, seed: int) -> RatedRun:
        """The attribute model of a seed."""
        settings = self.settings
        return RatedRun(
            folder=self.seed_folder(seed),
            seed=seed,
            base=self.base,
            template=TEMPLATE,
            prompts=self.evaluation_prompts,
            processes=settings.processes,
            tensor_model_parallel_size=settings.tensor_size_of(ANSWERS),
            sampling=settings.sampling.words(),
            build=settings.build.get("attribute_model", []),
            train=self._trained,
        )

    def annotations(self, seed: int, model: str) -> Path:
        """Judged answers of the base or a method's model to the training prompts."""
        return self.seed_folder(seed) / ("annotations.jsonl" if model == "base" else f"annotations_{model}.jsonl")

    def _round(self, seed: int, model: str, sampled: list[str], depends: list[str]) -> list[Stage]:
        """Sample candidates of a model and judge them.

        Args:
            model: the base, or a method's.
            sampled: what `sample` is told of it.
        """
        tag, suffix = f"seed{seed}", "" if model == "base" else f"_{model}"
        out = self.annotations(seed, model)
        candidates = self.seed_folder(seed) / f"candidates{suffix}.jsonl"
        prompts = f"prompts={self.world / 'train.jsonl'}"
        sample = torchrun_command(
            self.settings.processes,
            SCRIPTS / "sample.py",
            *sampled,
            prompts,
            f"out={candidates}",
            f"seed={seed}",
            *self.settings.sampling.words(later=model != "base"),
            f"tensor_model_parallel_size={self.settings.tensor_size_of(ANSWERS)}",
        )
        judged = (f"candidates={candidates}", f"out={out}", "runner.concurrency=1", "fsync_every=1000")
        label = python_command(SCRIPTS / "label.py", "judge=oracle", prompts, *judged)
        return [
            Stage(f"{tag}_sample{suffix}", sample, [candidates], depends),
            Stage(f"{tag}_label{suffix}", label, [out], [f"{tag}_sample{suffix}"]),
        ]

    @property
    def steered(self) -> list[str]:
        """Methods whose models are asked for attributes."""
        return [method for method in self.settings.methods if find_recipe(method).samples.attributed]

    @property
    def answering(self) -> list[str]:
        """Whose answers are compared: the base's, each method's, of steered ones also those to other requests."""
        variants = [UNASKED, BRIEF] if self.settings.brief else [UNASKED]
        return ["base", *self.settings.methods, *(f"{name}{variant}" for variant in variants for name in self.steered)]

    def _align(self, seed: int, method: str) -> list[Stage]:
        """Train a method; one that starts from another's model learns of that model's answers to what it was asked for."""
        folder, tag, recipe = self.seed_folder(seed), f"seed{seed}", find_recipe(method)
        rule, before = recipe.build_method, recipe.after
        alike = [other for other in self.settings.methods if find_recipe(other).build_method == rule]
        data = folder / (f"{rule}.jsonl" if method == alike[0] else f"{rule}_{method}.jsonl")
        stages, judged, started, start = [], f"{tag}_label", "base", self.base
        if before is not None:
            asked = [f"checkpoint={folder / before}", f"draw_from={self.annotations(seed, 'base')}"]
            stages = self._round(seed, before, asked, [f"{tag}_{before}", f"{tag}_label", "world"])
            judged, started, start = f"{tag}_label_{before}", f"{tag}_merge_{before}", folder / f"{before}_merged"
            stages.append(self._export(folder / before, start, f"{tag}_{before}", started))
        build = python_command(
            SCRIPTS / "build.py",
            f"method={rule}",
            f"annotations={self.annotations(seed, before or 'base')}",
            f"out={data}",
            *([f"method.seed={seed}"] if rule in RANDOM_METHODS else []),
            *self.settings.build.get(method, []),
        )
        return [
            *stages,
            Stage(f"{tag}_build_{method}", build, [data], [judged]),
            self._trained(seed, method, start, data, [f"{tag}_build_{method}", started]),
        ]

    def _trained(self, seed: int, recipe: str, start: Path, data: Path, depends: list[str]) -> Stage:
        run = self.seed_folder(seed) / recipe
        command = torchrun_command(
            self.settings.processes,
            SCRIPTS / "train.py",
            f"recipe={recipe}",
            "model=mini",
            f"model.hf_path={start}",
            *TEMPLATE,
            f"model.tensor_model_parallel_size={self.settings.tensor_size_of(recipe)}",
            f"data.train={data}",
            f"exp_manager.exp_dir={run.parent}",
            f"name={recipe}",
            f"seed={seed}",
            "precision=fp32",
            *self.settings.train["all"],
            *self.settings.train.get(recipe, []),
        )
        return Stage(f"seed{seed}_{recipe}", command, [run], depends, progress=_steps(run))

    def answers(self, seed: int, method: str) -> Path:
        """A method's answers to the evaluation prompts."""
        return self.seed_folder(seed) / "answers" / f"{method}.jsonl"

    def _answers(self, seed: int, name: str) -> Stage:
        method, variant = variant_of(name)
        brief = [f"attributes.{attribute}={value:g}" for attribute, value in (self.settings.brief or {}).items()]
        asked = {"": ["ask_defaults=true"], UNASKED: [], BRIEF: brief}[variant] if method in self.steered else []
        model = self.base if method == "base" else self.seed_folder(seed) / method
        return self._generate(
            f"seed{seed}_answers_{name}",
            model,
            self.answers(seed, name),
            [f"seed{seed}_{method}", "base", "world"],
            extra=asked,
        )

    def _sweep(self, seed: int, method: str) -> Stage:
        return self._generate(
            f"seed{seed}_steering_{method}",
            self.seed_folder(seed) / method,
            self.answers(seed, f"{method}_steering"),
            [f"seed{seed}_{method}", "world"],
            split="steering",
            extra=["sweep=all"],
        )

    def _generate(
        self, name: str, model: Path, out: Path, depends: list[str], split: str = "all", extra: list[str] | None = None
    ) -> Stage:
        prompts = {"all": self.evaluation_prompts, "steering": self.steering_prompts, "text": self.text_prompts}[split]
        template = TEMPLATE if (model / "config.json").is_file() or model == self.base else ()
        command = torchrun_command(
            self.settings.processes,
            SCRIPTS / "generate.py",
            f"checkpoint={model}",
            *template,
            f"prompts={prompts}",
            f"out={out}",
            f"max_new_tokens={self.settings.sampling.max_new_tokens}",
            f"tensor_model_parallel_size={self.settings.tensor_size_of(ANSWERS)}",
            *(extra or []),
        )
        return Stage(name, command, [out], depends)

    @property
    def text_prompts(self) -> Path:
        """The text instructions among the evaluation prompts."""
        return self.world / f"text_{self.settings.evaluate_on}.jsonl"


def _steps(run: Path) -> Callable[[], float]:
    """How far a training run is, by its metrics file."""

    def fraction() -> float:
        facts = read_facts(run)
        return len(read_metrics(run / METRICS_FILE)) / facts["total_steps"] if facts else 0.0

    return fraction


def _digest(folder: Path) -> str:
    return hashlib.sha256(
        b"".join(path.read_bytes() for path in sorted(folder.glob("*")) if path.is_file())
    ).hexdigest()


def take_text_before(shipped: Path, prompts: Path, out: Path) -> None:
    """Use the recorded answers of the shipped base's text stage, if they are answers to these very prompts."""
    settings = _settings_of(shipped)
    if not settings.is_file():
        return
    if json.loads(settings.read_text())["prompts"] == hash_bytes(prompts.read_bytes()):
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(shipped, out)
    else:
        logger.warning(
            "this world has other text instructions than the base was asked: ability before images is left out"
        )


def _settings_of(answers: Path) -> Path:
    """What `generate` records beside its answers."""
    return answers.with_name(f"{answers.stem}.settings.json")
