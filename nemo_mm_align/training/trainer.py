"""A training run from configuration to checkpoint, hosted by NeMo's experiment manager and Lightning's Trainer."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from nemo_mm_align.callbacks.hangs import EndHangs
from nemo_mm_align.callbacks.health import report_health
from nemo_mm_align.callbacks.stopping import StopOnRequest
from nemo_mm_align.capacity.gpus import data_sheet_rate
from nemo_mm_align.capacity.job import TrainingJob
from nemo_mm_align.core.lock import release, take
from nemo_mm_align.core.orphans import end_forks_with_this_process
from nemo_mm_align.core.run_files import (
    DONE_FILE,
    GUARDS_FILE,
    IMAGES_FILE,
    METRICS_FILE,
    OWNER_FILE,
    write_diverged,
    write_done,
)
from nemo_mm_align.core.run_health import read_health
from nemo_mm_align.datasets.sample import SampleStore
from nemo_mm_align.datasets.sampler import GlobalBatchSampler
from nemo_mm_align.model.arithmetic import row_length_multiple
from nemo_mm_align.model.llava import Llava, set_trainable
from nemo_mm_align.parallel import checkpoint, runtime
from nemo_mm_align.parallel.background import BackgroundWriter
from nemo_mm_align.parallel.first_rank import on_first_rank
from nemo_mm_align.parallel.source import build_from
from nemo_mm_align.parallel.stopping import Stopped, StopRequest, requests
from nemo_mm_align.parallel.strategy import MegatronCoreStrategy
from nemo_mm_align.schema.image_hashes import ImageHashes
from nemo_mm_align.schema.prompts import Encoder
from nemo_mm_align.training import reference
from nemo_mm_align.training.data import (
    BatchShape,
    Collator,
    RemainingSteps,
    StepDataset,
)
from nemo_mm_align.training.early import ANOTHER_RUN, CHECKPOINTS, owner_file, read_and_check
from nemo_mm_align.training.guards import open_guards
from nemo_mm_align.training.head_start import start_head
from nemo_mm_align.training.known_settings import check_trainer, differing_sizes
from nemo_mm_align.training.packing_settings import packing_of
from nemo_mm_align.training.priors import tell_priors
from nemo_mm_align.training.record import RunRecord, announce
from nemo_mm_align.training.reference_passes import choose_passes
from nemo_mm_align.training.resume import check_resumable, check_same_model, checkpoint_to_resume
from nemo_mm_align.training.running_job import running_job
from nemo_mm_align.training.step import TrainingDiverged, TrainingEngine
from nemo_mm_align.training.throughput import Throughput
from nemo_mm_align.training.trainer_callbacks import Watching, validation_of
from nemo_mm_align.training.trainer_host import AlignmentModule, open_host
from nemo_mm_align.training.validation_data import RunData, read_run_data

logger = logging.getLogger(__name__)

_WORKERS = 2
"""Processes per rank that decode images, where a GPU would wait for them."""


class TrainingRun:
    """Builds the parts of a run in the order in which a user's mistakes are cheapest to find.

    Args:
        config: conf/train.yaml, composed.
        stop: looked at from the start, so that a request during start-up is not lost.
        resources: closed when the run has ended, however it does.
    """

    def __init__(self, config: DictConfig, stop: StopRequest, resources: ExitStack) -> None:
        self.config, self.stop = config, stop
        check_trainer(config.trainer, pl.Trainer)
        self.settings, self.source = read_and_check(config)
        self.warn_of_sizes()
        runtime.initialize(self.settings.parallel, self.settings.seed, self.settings.faults.distributed_timeout_s)
        self.writer = BackgroundWriter() if self.settings.checkpoint.asynchronous else None
        template = self.settings.template
        self.source.check_template(template)
        self.source.check_asking(self.settings.schema)
        self.encoder: Encoder = self.source.encoder(template, self.settings.schema)
        self.processor = self.source.image_processor()
        strategy = MegatronCoreStrategy(self.settings.parallel, self.settings.seed, self._save, self._load)
        self.trainer, self.folder = open_host(config, self.settings.manager.folder, strategy, stop)
        self._own(resources)
        self.hashes = ImageHashes(self.folder / IMAGES_FILE)
        self.data = self._read_data()
        self.samples: SampleStore = self.data.training
        self.sampler = GlobalBatchSampler(
            len(self.samples),
            self.settings.model.global_batch_size,
            self.settings.model.samples_per_pass,
            runtime.data_parallel_size(),
            self.settings.seed,
            self.settings.data.shuffle,
        )
        self.total_steps = self._total_steps()
        self.record = RunRecord(
            self.settings,
            self.source,
            self.processor,
            self.samples,
            self.samples.pictures(self.hashes.of),
            self.total_steps,
        )
        self.throughput = self._throughput()
        self._watch()

    def _own(self, resources: ExitStack) -> None:
        """Make the run's folder this run's alone; two that write checkpoints and metrics there would mix them."""
        on_first_rank(lambda: take(owner_file(self.folder), self.folder, ANOTHER_RUN))
        resources.callback(release, self.folder / OWNER_FILE)

    def warn_of_sizes(self) -> None:
        """Say where the model that was chosen by name is not the one in the folder."""
        settings = self.settings
        differing = differing_sizes(settings.sizes, self.source.config) if settings.sizes is not None else []
        if settings.sizes is not None and differing and runtime.rank() == 0:
            logger.warning(
                "model=%s differs from %s, whose sizes count: %s. Choose the model that the folder holds: estimates go by it",
                settings.sizes.name,
                self.source.folder,
                ", ".join(differing),
            )

    @property
    def progress(self) -> bool:
        """Whether this rank shows progress bars."""
        return runtime.rank() == 0 and self.settings.trainer.enable_progress_bar

    def _read_data(self) -> RunData:
        folder = self.folder if runtime.rank() == 0 else None
        return read_run_data(self.settings, self.encoder, folder, self.progress, self.hashes)

    def _watch(self) -> None:
        """Find out what is to be looked at while the model is trained, before there is one."""
        settings, config = self.settings, self.source.config
        self.watching = Watching(
            settings, self.folder, self.total_steps, lambda: self.engine.model, self.progress, self.throughput.start
        )
        self.collator, self.validation, self.best = self._collator(), None, None
        held_out = self.data.validation
        if held_out is not None:
            size = config.language.hidden_size
            self.validation = validation_of(settings, self.data, self.collator, size, self.progress)
            self.best = self.watching.best(held_out)
        asks, positions = self.record.recipe()["attributed"], config.language.max_position_embeddings
        images = self.folder / GUARDS_FILE.parent
        self.guards = open_guards(settings, self.encoder, self.processor, positions, asks, images)

    def _total_steps(self) -> int:
        epochs = float(self.settings.recipe.epochs)
        steps = self.sampler.num_steps(epochs)
        surplus = self.sampler.surplus(epochs)
        if surplus and runtime.rank() == 0:
            logger.warning("recipe.epochs=%g: %s", epochs, surplus)
        limit = self.settings.trainer.max_steps
        return min(steps, limit) if limit and limit > 0 else steps

    def run(self) -> None:
        """Build the model, fill the reference cache if the method needs it, resume or start, train, save.

        Raises:
            Stopped: on request, before the first step; after it, a run saves and returns.
            TrainingDiverged: its report is in the run's folder.
        """
        self.stop.check()
        on_first_rank(lambda: read_health(self.folder))  # one of another version is named before any work
        resume = on_first_rank(lambda: checkpoint_to_resume(self.checkpoints, self.settings.checkpoint.resume))
        start = self._check_resumable(resume) if resume else 0
        if runtime.rank() == 0:
            self.hashes.save()
        collator, model = self.collator, self._build_model()
        if self.settings.recipe.starts_at_targets and not resume and not self._head_is_given():
            start_head(model, self.samples, self.encoder, self.processor)
        if self.settings.recipe.needs_reference:
            self._attach_reference(model, collator)
        self.engine = TrainingEngine(
            model, self.settings.recipe, self.settings.model.optim, self.total_steps, self.settings.seed
        )
        announce(self.record, self.engine.model, self.folder, start)
        if start < self.total_steps:
            self._train(self._loader(collator, start), resume, collator)
        else:
            logger.info("already trained to step %d: nothing to do", start)
            on_first_rank(lambda: self._catch_up(start))
        if runtime.rank() == 0 and max(start, self.trainer.global_step) >= self.total_steps:
            write_done(self.folder, self.total_steps)

    def _catch_up(self, step: int) -> None:
        """Do what a run that was ended right after its last save has left undone."""
        if self.best is not None:
            self.best.begin(step)
        if read_health(self.folder).verdict is None:
            report_health(self.folder, self.settings.model.optim.clip_grad, self.watching.lengths)

    def _check_resumable(self, resume: Path) -> int:
        check_same_model(resume, self.source.config, self.processor)
        return check_resumable(
            resume, self.record.recipe(), self.source.fingerprint(), self.hashes.others, self.record.head
        )

    def _train(self, loader: DataLoader, resume: Path | None, collator: Collator) -> None:
        if runtime.rank() == 0:
            (self.folder / DONE_FILE).unlink(missing_ok=True)  # of a shorter run in the same folder
        self.stop.check()
        self.trainer.callbacks.extend(self._callbacks(collator))
        self.trainer.fit_loop.epoch_loop.max_steps = self.total_steps
        try:
            self.trainer.fit(AlignmentModule(self.engine, self.throughput), loader, ckpt_path=resume)
        except TrainingDiverged as error:
            if self.writer is not None:
                self.writer.finish()  # of an earlier, healthy step
            if self.best is not None and runtime.rank() == 0:
                self.best.settle()
            if runtime.rank() == 0:
                write_diverged(self.folder, error.report)
            raise

    def _throughput(self) -> Throughput:
        gpu = runtime.device().type == "cuda"
        rate = data_sheet_rate(torch.cuda.get_device_name()) if gpu else None
        return Throughput(self.job, runtime.world_size(), rate)

    @property
    def job(self) -> TrainingJob:
        """The run as the estimator sees it."""
        ranks_per_node = runtime.local_world_size()
        nodes = max(1, runtime.world_size() // ranks_per_node)
        return running_job(self.settings, self.source.config, nodes, ranks_per_node)

    @property
    def checkpoints(self) -> Path:
        """The run's checkpoints folder."""
        return self.folder / CHECKPOINTS

    def _collator(self) -> Collator:
        settings = self.settings
        shape = BatchShape(
            row_length_multiple(settings.parallel, settings.engine),
            settings.recipe.rows_shared,
            last_token=settings.recipe.reads.hidden is not None,
            equal_rows=settings.parallel.pipeline_model_parallel_size > 1,
        )
        roles = settings.spec.samples.roles
        return Collator(self.encoder, self.processor, shape, runtime.is_first_stage(), roles)

    def _build_model(self) -> Llava:
        settings = self.settings
        head = settings.recipe.head(settings.schema)
        model = build_from(self.source, settings.parallel, settings.engine, settings.model.lora, head=head)
        parts = settings.model.train
        set_trainable(
            model,
            language=parts.language and settings.model.lora is None,
            projector=parts.projector,
            vision=parts.vision,
            adapters=True,
            output_layer=settings.recipe.reads.token_losses,
        )
        return model

    def _head_is_given(self) -> bool:
        """Whether the model that training starts from brings the head."""
        return self.source.metadata is not None and self.source.metadata.head == self.record.head

    def _attach_reference(self, model: Llava, collator: Collator) -> None:
        """Give every sample the log-probs of its sequences under the model as it stands: its record's own, or computed."""
        settings = self.settings
        if settings.recipe.reference_stored:
            for samples in self._all_samples:
                reference.check_stored(samples)
            return
        key = reference.settings_key(
            weights=self.source.fingerprint(),
            template=settings.template.model_dump(mode="json"),
            image_processor=self.processor.model_dump(mode="json"),
            precision=settings.engine.precision,
            transformer_impl=model.transformer_impl,
            layout=asdict(settings.parallel),
            shape=collator.shape.identity,
            **self._attention_of(model),
        )
        cache = reference.ReferenceCache(
            Path(settings.data.reference_cache or self.folder / "reference_log_probs"), key
        )
        asked = settings.model.reference_micro_batch_size
        for samples in self._all_samples:
            passes = choose_passes(self.job, max(collator.length([sample]) for sample in samples), asked)
            reference.attach(model, samples, collator, cache, passes, self.progress, self.stop, self.hashes.of)
        if runtime.rank() == 0:
            tell_priors(self.samples, self.source)

    def _attention_of(self, model: Llava) -> dict[str, str]:
        """What the key of the reference's log-probs says of attention: without a mask, numbers of 16 bits round otherwise."""
        rounds_otherwise = "attention" in model.config.levers and self.settings.engine.precision != "fp32"
        return {"attention": "without a mask"} if rounds_otherwise else {}

    @property
    def _all_samples(self) -> list[SampleStore]:
        """To train on, and to validate with."""
        data = self.data
        given = (data.training, data.mismatched, data.validation, data.mismatched_validation)
        return [samples for samples in given if samples is not None]

    def _loader(self, collator: Collator, start: int) -> DataLoader:
        dataset = StepDataset(
            self.samples,
            self.sampler,
            collator,
            runtime.data_parallel_rank(),
            self.settings.recipe.reads,
            self.data.mismatched,
            packing_of(self.settings, self.job, runtime.data_parallel_size()),
        )
        gpu, workers = runtime.device().type == "cuda", self.settings.data.num_workers
        return DataLoader(
            dataset,
            batch_size=None,
            sampler=RemainingSteps(start, self.total_steps),
            num_workers=(_WORKERS if gpu else 0) if workers is None else workers,
            pin_memory=gpu,
        )

    def _callbacks(self, collator: Collator) -> list[pl.Callback]:
        watching, faults = self.watching, self.settings.faults
        hangs = EndHangs(faults.hang_timeout_s, (self.folder / METRICS_FILE).parent)
        before = watching.images(self.samples, collator, self.source.fingerprint(), self.hashes)
        if self.validation is not None and self.best is not None:
            before.append(watching.validation(self.validation, self.best, self.stop, hangs))
        if self.guards is not None:
            before.append(watching.guards(self.guards))
        return watching.in_order(before, StopOnRequest(self.stop), hangs, self.writer, self.best)

    def _save(self, folder: Path, trainer_state: dict[str, Any]) -> None:
        checkpoint.save(
            folder.parent,
            self.engine.model,
            self.record.metadata(int(trainer_state["global_step"])),
            self.engine.optimizer,
            trainer_state,
            self.source.tokenizer_folder,
            self.writer,
        )

    def _load(self, folder: Path) -> dict[str, Any]:
        return checkpoint.load(folder, self.engine.model, self.engine.optimizer)[1]


def train(config: DictConfig, stop: StopRequest | None = None) -> None:
    """Run a training job as configured; under torchrun or Slurm every rank calls this.

    A run that was asked to stop saves and returns, with exit code 0 like one that has finished: anything else would make
    torchrun start it again. What tells them apart is the file `DONE` in the run's folder.
    """
    end_forks_with_this_process()
    with requests(stop) as request, ExitStack() as resources:
        try:
            TrainingRun(config, request, resources).run()
        except Stopped:
            logger.warning("asked to stop before the first step: ending, nothing is lost")
        finally:
            runtime.shutdown()
