"""Step ``training``: scripts/train.py killed in the middle and resumed, its losses beside those of an undisturbed run.

DPO with LoRA on a tiny model. A run is killed (SIGKILL, launcher and ranks) when a checkpoint is complete and later steps
have been taken, whose work is lost; the same command then goes on from the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nemo_mm_align.benchmarks.recipes import PREFERENCE
from nemo_mm_align.benchmarks.tables import markdown_table
from nemo_mm_align.core.run_files import METRICS_FILE, read_metrics
from nemo_mm_align.parallel.checkpoint_folder import latest_checkpoint
from nemo_mm_align.verify.context import Context
from nemo_mm_align.verify.outcome import Outcome, Verdict
from nemo_mm_align.verify.programs import torchrun

MODEL, PAIRS = "model", "pairs.jsonl"
"""What `training_inputs` writes into the step's folder."""

ATTEMPTS = 3
"""At killing a run: it may be over before."""
_LOST = 2
"""Steps after the checkpoint that a kill costs, at least."""

Losses = list[float]


@dataclass(frozen=True)
class Layout:
    """How the ranks share the work: name in the report, and words for scripts/train.py."""

    name: str
    words: tuple[str, ...] = ()


TP2 = Layout("TP2 with sequence parallelism", ("model.tensor_model_parallel_size=2", "model.sequence_parallel=true"))
PP2 = Layout("PP2", ("model.pipeline_model_parallel_size=2",))
DP2 = Layout("DP2 with the distributed optimizer", ("model.optim.use_distributed_optimizer=true",))
ALONE = Layout("one rank")


@dataclass(frozen=True)
class Length:
    """How long a run is, and what a loss may differ by.

    Args:
        steps: of an undisturbed run.
        every: steps from checkpoint to checkpoint. They are written in the background, one at a time.
        tolerance: largest difference of a loss; losses begin at ln 2. On a GPU sums are not always taken in one order.
    """

    steps: int
    every: int
    tolerance: float


ON_A_GPU, ON_A_CPU = Length(90, 15, 0.01), Length(16, 4, 1e-6)


@dataclass(frozen=True)
class Resumed:
    """A killed and resumed run beside an undisturbed one: losses by step, the checkpoint's step, steps that were lost."""

    undisturbed: Losses
    resumed: Losses
    at: int
    lost: int

    @property
    def before(self) -> float:
        """Largest difference up to the checkpoint: two runs of the same."""
        return _distance(self.undisturbed[: self.at], self.resumed[: self.at])

    @property
    def after(self) -> float:
        """Largest difference after the resume."""
        return _distance(self.undisturbed[self.at :], self.resumed[self.at :])


class Fault(Exception):
    """A run that did not do what it should; carries its last lines."""

    def __init__(self, text: str, lines: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.lines = tuple(lines)


def perform(context: Context) -> Outcome:
    """Try every layout that the ranks allow; one that goes wrong costs itself alone."""
    made = context.python(["-m", "nemo_mm_align.verify.training_inputs", str(context.work)])
    if made.code != 0:
        return Outcome(Verdict.FAILED, f"no model and data: {made.how}", lines=made.lines)
    layouts = {0: (TP2,), 1: (ALONE,)}.get(context.gpus, (TP2, DP2, PP2))
    length = ON_A_GPU if context.gpus else ON_A_CPU
    tried: dict[str, Resumed] = {}
    faults: dict[str, Fault] = {}
    for layout in layouts:
        try:
            tried[layout.name] = _Trial(context, layout, length).resumed()
        except Fault as fault:
            faults[layout.name] = fault
    return judge(tried, faults, length.tolerance, one_gpu=context.gpus == 1)


def judge(tried: dict[str, Resumed], faults: dict[str, Fault], tolerance: float, one_gpu: bool = False) -> Outcome:
    """Passed where no run went wrong and losses after a resume are those of the undisturbed run within the tolerance."""
    found = [
        f"{name}: {run.lost} steps beyond step {run.at} lost by the kill, then losses within {run.after:.2g}"
        + ("" if run.after <= tolerance else f", more than {tolerance:g}")  # NaN is more
        for name, run in tried.items()
    ]
    found += [f"{name}: {fault}" for name, fault in faults.items()]
    text, lines = "; ".join(found), tuple(line for fault in faults.values() for line in fault.lines)
    if faults or not all(run.after <= tolerance for run in tried.values()):
        return Outcome(Verdict.FAILED, text, figures(tried), lines)
    if one_gpu:
        return Outcome(Verdict.IN_PART, f"{text}; two ranks need two GPUs", figures(tried))
    return Outcome(Verdict.PASSED, text, figures(tried))


def figures(tried: dict[str, Resumed]) -> str:
    """Per layout the largest differences, then the losses from the checkpoint on."""
    head = ("", "checkpoint of step", "steps lost", "difference before", "difference after")
    rows = [(name, run.at, run.lost, f"{run.before:.2g}", f"{run.after:.2g}") for name, run in tried.items()]
    parts = [markdown_table(head, rows)] if rows else []
    for name, run in tried.items():
        shown = [run.at - 1, *range(run.at, len(run.undisturbed), max(1, (len(run.undisturbed) - run.at) // 8))]
        losses = [(step + 1, f"{run.undisturbed[step]:.6f}", f"{run.resumed[step]:.6f}") for step in shown]
        parts.append(f"{name}:\n\n" + markdown_table(("step", "loss, undisturbed", "loss, resumed"), losses))
    return "\n\n".join(parts)


def _distance(one: Losses, other: Losses) -> float:
    differences = [abs(x - y) for x, y in zip(one, other, strict=True)]
    return max(differences, default=0.0) if all(map(math.isfinite, differences)) else math.nan


class _Trial:
    """Runs of one layout."""

    def __init__(self, context: Context, layout: Layout, length: Length) -> None:
        self.context, self.layout, self.length = context, layout, length
        self.runs = context.work / "runs"
        self.prefix = layout.name.split()[0].lower()

    def resumed(self) -> Resumed:
        """Take all three runs; raise `Fault` for one that went wrong."""
        whole = self._whole(f"{self.prefix}-undisturbed", "an undisturbed run")
        name, at, lost = self._killed()
        found = self._whole(name, "the resumed run")
        return Resumed(whole, found, at, lost)

    def _whole(self, name: str, what: str) -> Losses:
        ended = self.context.python(self._words(name), _VARIABLES)
        losses = self._losses(name)
        if ended.code != 0:
            raise Fault(f"{what}: {ended.how}", ended.lines)
        if len(losses) != self.length.steps:
            raise Fault(f"{what} has written {len(losses)} of {self.length.steps} steps", ended.lines)
        return losses

    def _killed(self) -> tuple[str, int, int]:
        """Name of a killed run, step of its newest checkpoint, steps that were lost."""
        for number in range(ATTEMPTS):
            name = f"{self.prefix}-killed-{number}"
            ended = self.context.python(self._words(name), _VARIABLES, until=lambda: self._lost(name) >= _LOST)  # noqa: B023
            if not ended.watched and ended.code != 0:
                raise Fault(f"the run to be killed: {ended.how}", ended.lines)
            at, lost = self._at(name), self._lost(name)
            if ended.watched and lost >= _LOST and at + lost < self.length.steps:
                return name, at, lost
        raise Fault(f"{ATTEMPTS} runs were over, or had saved again, before they could be killed")

    def _at(self, name: str) -> int:
        newest = latest_checkpoint(self.runs / name)
        return int(newest.name.removeprefix("step_")) if newest else 0

    def _lost(self, name: str) -> int:
        at = self._at(name)
        return len(self._losses(name)) - at if at else 0

    def _losses(self, name: str) -> Losses:
        return [line["loss"] for line in read_metrics(self.runs / name / METRICS_FILE)]

    def _words(self, name: str) -> list[str]:
        work, length = self.context.work, self.length
        return [
            *torchrun(min(self.context.ranks, 2), "train.py"),
            f"recipe={PREFERENCE}",
            f"name={name}",
            f"precision={'bf16' if self.context.gpus else 'fp32'}",
            f"trainer.max_steps={length.steps}",
            f"exp_manager.exp_dir={self.runs}",
            "exp_manager.create_tensorboard_logger=false",
            f"checkpoint.every_n_steps={length.every}",
            "health.image_probe=0",
            "recipe.epochs=99",
            f"data.train={work / PAIRS}",
            f"data.reference_cache={work / 'reference'}",
            f"model.hf_path={work / MODEL}",
            "model.max_length=256",
            "model.micro_batch_size=2",
            "model.global_batch_size=8",
            "model.lora={rank: 8, alpha: 16, dropout: 0.1}",
            "model.optim={lr: 2e-3, projector_lr: 1e-3, eps: 1e-4}",  # a small eps makes rounding visible
            *self.layout.words,
        ]


_VARIABLES = {"OMP_NUM_THREADS": "1"}
