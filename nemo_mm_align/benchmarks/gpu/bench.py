"""A model with random weights made on the device, trained step by step through the project's own engine."""

from __future__ import annotations

import statistics
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from nemo_mm_align.benchmarks.engine import objective_of
from nemo_mm_align.benchmarks.gpu import card, clock, levers, profiling, shapes
from nemo_mm_align.benchmarks.gpu.records import Context, Skipped
from nemo_mm_align.benchmarks.gpu.shapes import Rows
from nemo_mm_align.benchmarks.pairs import positions
from nemo_mm_align.benchmarks.recipes import PREFERENCE
from nemo_mm_align.capacity.job import TrainingJob
from nemo_mm_align.datasets.batch import Batch
from nemo_mm_align.model.config import EngineConfig, LlavaConfig, ParallelConfig, fp8_capability, is_fp8
from nemo_mm_align.model.layer_specs import transformer_engine_available
from nemo_mm_align.model.llava import Llava, build_llava
from nemo_mm_align.parallel import kernels, runtime
from nemo_mm_align.parallel.optim_config import OptimConfig
from nemo_mm_align.recipes.registry import find_recipe
from nemo_mm_align.training import reference
from nemo_mm_align.training.step import TrainingEngine

SEED, BETA = 1234, 0.1
MICRO_BATCHES = 2
"""Per optimizer step: few, so that the update's share of a step is larger than in a real run."""
_STEPS, _SPREAD = 10_000, 0.02


def optim(lr: float = 1e-5) -> OptimConfig:
    """A constant rate, the same for all."""
    return OptimConfig(lr=lr, projector_lr=None, schedule="constant", warmup_ratio=0.0)


def check_precision(precision: str) -> None:
    """Raise `Skipped` where a kind of FP8 cannot be computed here."""
    if not is_fp8(precision):
        return
    if not clock.cuda():
        raise Skipped("FP8 needs a GPU")
    if not transformer_engine_available():
        raise Skipped("FP8 needs TransformerEngine, which is not installed")
    needed, found = fp8_capability(precision), torch.cuda.get_device_capability()
    if found < needed:
        raise Skipped(
            f"{precision} needs compute capability {needed[0]}.{needed[1]}, this card has {found[0]}.{found[1]}"
        )


def draw_weights(model: Llava) -> None:
    """Draw every matrix anew, by its name: the same in every number format. Adapters then do something from the start."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                generator = torch.Generator(device=parameter.device).manual_seed(zlib.crc32(name.encode()))
                parameter.normal_(0.0, _SPREAD, generator=generator)


class TrainingBench:
    """One model under training, and measurements of its steps.

    Args:
        context: of the step.
        method: as in ``recipe.name``.
        lora: adapters and projector are trained, else language model and projector.
        layers: of the language model, where fewer than the size has.
        drawn: weights by `draw_weights` instead of megatron-core's own.
        implementation: ``auto``, ``transformer_engine`` or ``local`` layers.

    Raises:
        Skipped: the number format is not to be had here, or the estimate is above the card's memory.
    """

    def __init__(
        self,
        context: Context,
        precision: str = "bf16",
        *,
        method: str = PREFERENCE,
        lora: bool = True,
        recompute: str = "none",
        layers: int | None = None,
        drawn: bool = False,
        lr: float = 1e-5,
        implementation: str = "auto",
    ) -> None:
        check_precision(precision)
        self.context, self.size, self.method = context, context.size, method
        self.config = _with_layers(shapes.model_config(context.size), layers)
        self.engine_config = EngineConfig(precision, implementation, recompute, SEED)
        self.lora = shapes.lora_config(context.size) if lora else None
        self.label = label_of(context.size, precision, method, lora, recompute, layers)
        if implementation != "auto":
            self.label = f"{self.label}, {implementation} layers"
        shapes.check_memory(self.job(Rows(1)))
        runtime.initialize(ParallelConfig(), SEED)
        clock.free()
        model = build_llava(self.config, engine=self.engine_config, lora=self.lora)
        if drawn:
            draw_weights(model)
        self.engine = TrainingEngine(model, objective_of(method), optim(lr), _STEPS, SEED)
        self._step = 0
        print(self.label, kernels.active(model.transformer_impl), flush=True)

    def job(self, rows: Rows) -> TrainingJob:
        """The training run that these rows are."""
        return shapes.job_of(self.size, self.config, self.engine_config, self.lora, self.method, rows, MICRO_BATCHES)

    @property
    def needs_reference(self) -> bool:
        """Whether the micro batches carry reference log-probs."""
        return find_recipe(self.method).objective.needs_reference

    def use_method(self, name: str) -> None:
        """Take another loss from the next step on."""
        self.engine.objective = objective_of(name)

    def batch(self, rows: Rows, extra: int = 0, seed: int = 0) -> Batch:
        """One micro batch where the data loader would leave it, for DPO with its reference log-probs."""
        made = shapes.batch_for(self.size, self.job(rows), rows.multiple, extra, seed)
        return _pinned(self.referenced(made) if self.needs_reference else made)

    def referenced(self, batch: Batch) -> Batch:
        """The batch with log-probs of the model as it stands now."""
        self.engine.model.eval()
        values = reference.compute(self.engine.model, [batch])
        self.engine.ddp.train()
        return replace(batch, reference_log_probs_Q=values.cpu())

    def train(self, batches: Sequence[Batch]) -> float:
        """One optimizer step; return its loss."""
        self._step += 1
        return self.engine.step(batches, self._step - 1).metrics["loss"]

    def case(self, rows: Rows, names: Sequence[str] = (), profile: bool = False, repeats: int = 3) -> None:
        """Measure steps of one kind of micro batch with some levers pulled, and record them."""
        kind = kind_of(self.method, rows)
        padded = f", rows of a multiple of {rows.multiple}" if rows.multiple else ""
        pulled = "".join(f" + {name}" for name in names)
        self.context.recorder.case(
            f"{self.label}, {kind}{padded}{pulled}", lambda: self._measured(rows, names, profile, repeats)
        )

    def _measured(self, rows: Rows, names: Sequence[str], profile: bool, repeats: int) -> dict[str, Any]:
        job = self.job(rows)
        shapes.check_memory(job)
        clock.free()
        with levers.pulled(self.engine.model, names):
            batches = [self.batch(rows)] * MICRO_BATCHES
            first = clock.seconds(lambda: self.train(batches))
            clock.reset_peak()
            taken = clock.median_seconds(lambda: self.train(batches), 1 if self.context.toy else repeats)
            peak = clock.peak_gib()
            values = speeds(self.size, job, batches[0], taken) | {"first_step_s": round(first, 2), "peak_gib": peak}
            values |= {"estimated_gib": round(shapes.estimated_gib(job), 2), "levers": list(names)}
            if self.needs_reference:
                values |= self._with_reference_passes(rows, batches[0], taken)
            if profile:
                values |= profiling.profiled(lambda: self.train(batches))
        return values

    def _with_reference_passes(self, rows: Rows, batch: Batch, step_s: float) -> dict[str, Any]:
        """What computing the reference in every step, by this same model, adds to it."""
        passes = MICRO_BATCHES * clock.median_seconds(lambda: self.referenced(batch), repeats=2)
        recomputed = rows.samples * MICRO_BATCHES / (step_s + passes)
        return {"reference_s": round(passes, 4), "samples_per_s_recomputed": round(recomputed, 3)}

    def new_lengths(self, rows: Rows, extras: Sequence[int], names: Sequence[str] = ()) -> None:
        """Record what a step of one micro batch costs when its row length is new, and when it was there before."""
        pulled = "".join(f" + {name}" for name in names)
        self.context.recorder.case(
            f"{self.label}, {kind_of(self.method, rows)}, new row length{pulled}",
            lambda: self._new_lengths(rows, extras, names),
        )

    def _new_lengths(self, rows: Rows, extras: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
        clock.free()
        with levers.pulled(self.engine.model, names):
            batches = [self.batch(rows, extra) for extra in extras]
            new, again = ([clock.seconds(lambda: self.train([batch])) for batch in batches] for _ in range(2))  # noqa: B023
            medians = [statistics.median(list(taken)[1:]) for taken in (new, again)]
        return {"new_length_s": round(medians[0], 4), "seen_length_s": round(medians[1], 4), "levers": list(names)}

    def close(self) -> None:
        """Give the model's memory back."""
        del self.engine
        clock.free()


def label_of(
    size: str, precision: str, method: str, lora: bool, recompute: str = "none", layers: int | None = None
) -> str:
    """What a model under training is called in the results."""
    more = ([f"{layers} layers"] if layers else []) + ([f"recompute {recompute}"] if recompute != "none" else [])
    return " ".join([size, *more, precision, method, "LoRA" if lora else "full"])


def speeds(size: str, job: TrainingJob, batch: Batch, step_s: float) -> dict[str, Any]:
    """Rates of a step of `MICRO_BATCHES` such batches; MFU against the data sheet where the card is known."""
    rate = shapes.flops(size, job) * MICRO_BATCHES / step_s
    sheet = card.data_sheet_flops()
    return {
        "step_s": round(step_s, 4),
        "samples_per_s": round(job.micro_batch_size * MICRO_BATCHES / step_s, 3),
        "tokens_per_s": round(positions(batch) * MICRO_BATCHES / step_s),
        "tflops": round(rate / 1e12, 4),
        "mfu": round(rate / sheet, 4) if sheet else None,
        "rows": list(batch.input_ids_BS.shape),
    }


def with_bench(context: Context, measure: Callable[[TrainingBench], None], **settings: Any) -> None:
    """Build a model, measure, give its memory back; record why where it cannot be built."""
    precision, method, lora = (
        settings.get("precision", "bf16"),
        settings.get("method", PREFERENCE),
        settings.get("lora", True),
    )
    label = label_of(context.size, precision, method, lora, settings.get("recompute", "none"), settings.get("layers"))
    try:
        bench = TrainingBench(context, **settings)
    except Exception as error:
        context.recorder.failed(label, error)
        clock.free()
        return
    try:
        measure(bench)
    except Exception as error:
        context.recorder.failed(label, error)
    finally:
        bench.close()


def _pinned(batch: Batch) -> Batch:
    """In memory that the GPU reads by itself, where batches can be put there."""
    pin = getattr(batch, "pin_memory", None)
    return pin() if pin is not None and clock.cuda() else batch


def _with_layers(config: LlavaConfig, layers: int | None) -> LlavaConfig:
    return config if layers is None else replace(config, language=replace(config.language, num_layers=layers))


def kind_of(method: str, rows: Rows) -> str:
    """What a micro batch is called in the results."""
    plural = "s" if rows.samples > 1 else ""
    if find_recipe(method).samples.usual_sequences == 1:
        return f"{rows.samples} answer{plural}"
    return f"{rows.samples} pair{plural}, {'shared prefix' if rows.shared else 'separate rows'}"
