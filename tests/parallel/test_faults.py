"""Runs that go wrong: a request before the first step, a rank that hangs, a loss that is not a number, a lost writer."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.model.config import EngineConfig, ParallelConfig
from nemo_mm_align.parallel import checkpoint, runtime
from nemo_mm_align.parallel.background import BackgroundWriter, _ResultFile
from nemo_mm_align.parallel.stopping import StopRequest
from nemo_mm_align.parallel.watchdog import EXIT_CODE
from nemo_mm_align.training import reference
from tests.distributed import REPOSITORY, free_port
from tests.parallel.test_training import metrics, overrides
from tests.tiny import tiny_llava, training_data
from tests.waiting import PATIENCE_S, wait_until


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llava(tmp_path_factory.mktemp("model"))


def start_ranks(log: Path, *arguments: str) -> list[subprocess.Popen[bytes]]:
    """Start two ranks as ``srun`` does, one process each, without anybody who ends the one with the other."""
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
    command = [sys.executable, str(REPOSITORY / "scripts/train.py"), *arguments]
    ranks = []
    for rank in range(2):
        own = {"SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank), "SLURM_LOCALID": "0"}
        with (log / f"rank{rank}.log").open("wb") as file:
            ranks.append(subprocess.Popen(command, env=shared | own, cwd=REPOSITORY, stdout=file, stderr=file))
    return ranks


def end(ranks: list[subprocess.Popen[bytes]]) -> None:
    for rank in ranks:
        for process in [*psutil.Process(rank.pid).children(recursive=True), rank] if rank.poll() is None else []:
            process.kill()
        rank.wait()


def run_here(arguments: list[str], stop: StopRequest | None = None) -> None:
    from hydra import compose, initialize_config_dir

    from nemo_mm_align.training.trainer import train

    with initialize_config_dir(str(REPOSITORY / "conf"), version_base=None):
        config = compose("train", overrides=arguments)
    train(config, stop)


def test_request_while_the_reference_is_computed_keeps_what_is_there(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = training_data(tmp_path, "preference", count=60)
    cache = tmp_path / "cache"
    one = "model.reference_micro_batch_size=1"
    arguments = overrides(model, data, tmp_path, "recipe=dpo", "name=run", f"data.reference_cache={cache}", one)

    def computed() -> int:
        return sum(path.read_bytes().count(b"\n") for path in cache.glob("*.jsonl"))

    def write_and_ask(*line: Any) -> None:
        write(*line)
        if computed() == 3:
            os.kill(os.getpid(), signal.SIGUSR1)

    write = reference._write
    monkeypatch.setattr(reference, "_write", write_and_ask)
    run_here(arguments)
    assert computed() == 3
    assert not list((tmp_path / "run").rglob("step_*")) and not (tmp_path / "run/DONE").exists()

    (tmp_path / "run/STOP").touch()
    run_here([*arguments, "trainer.max_steps=2"])
    assert not (tmp_path / "run/checkpoints").exists(), "the file was there before the first step"
    run_here([*arguments, "trainer.max_steps=2"])
    assert json.loads((tmp_path / "run/DONE").read_text()) == {"steps": 2}
    assert computed() == 60 and len(metrics(tmp_path, "run")) == 2
    run_here([*arguments, "trainer.max_steps=2"])
    assert (tmp_path / "run/DONE").exists(), "nothing left to do is done as well"


def test_reference_log_probs_of_another_model_are_not_taken(model: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(model, tmp_path / "other"))
    tensors = load_file(other / "model.safetensors")
    name = next(name for name in tensors if "embed_tokens" in name)
    save_file(tensors | {name: tensors[name] + 0.1}, other / "model.safetensors", metadata={"format": "pt"})
    data, cache = training_data(tmp_path, "preference", count=4), tmp_path / "cache"

    def lines_after(folder: Path, run: str) -> int:
        words = ["recipe=dpo", f"name={run}", f"data.reference_cache={cache}", "trainer.max_steps=1"]
        run_here(overrides(folder, data, tmp_path, *words))
        return sum(path.read_bytes().count(b"\n") for path in cache.glob("*.jsonl"))

    assert [lines_after(model, "a"), lines_after(model, "b"), lines_after(other, "c")] == [4, 4, 8]


@pytest.mark.parallel
def test_hanging_rank_is_named_and_the_run_ends(model: Path, tmp_path: Path) -> None:
    data = training_data(tmp_path, "sft", count=400)
    faults = ["faults.hang_timeout_s=8", "faults.straggler_every_n_steps=2", "checkpoint.every_n_steps=0"]
    ranks = start_ranks(tmp_path, *overrides(model, data, tmp_path, "recipe=sft", "name=run", *faults))
    try:
        wait_until(
            lambda: len(metrics(tmp_path, "run")) >= 5,
            lambda: None if ranks[0].poll() is None else (tmp_path / "rank0.log").read_text()[-4000:],
        )
        os.kill(ranks[1].pid, signal.SIGSTOP)
        began = time.monotonic()
        assert ranks[0].wait(PATIENCE_S) == EXIT_CODE
        assert 2 < time.monotonic() - began < 300, "not at once, and long before the collective's own time is over"
    finally:
        end(ranks)
    log = (tmp_path / "rank0.log").read_text()
    assert "the run hangs at rank 1 (silent: its process is dead or stopped" in log
    stacks = (tmp_path / "run/metrics/hang_rank0.txt").read_text()
    assert stacks.startswith("rank 0 on ") and "scripts/train.py" in stacks
    times = [json.loads(line) for line in (tmp_path / "run/metrics/ranks.jsonl").read_text().splitlines()]
    assert times[0]["step"] == 2 and all(len(times[0][name]) == 2 for name in ("step_s", "between_steps_s", "probe_s"))
    assert all(value > 0 for value in times[0]["step_s"] + times[0]["probe_s"])


@pytest.mark.parallel
def test_loss_that_is_no_number_ends_all_ranks_with_the_samples(model: Path, tmp_path: Path) -> None:
    data = training_data(tmp_path, "sft")
    arguments = overrides(model, data, tmp_path, "recipe=sft", "name=run", "checkpoint.every_n_steps=1")
    ranks = start_ranks(tmp_path, *arguments, "model.optim.lr=1e30", "model.optim.warmup_ratio=0")
    try:
        codes = [rank.wait(PATIENCE_S) for rank in ranks]
    finally:
        end(ranks)
    log = (tmp_path / "rank0.log").read_text()
    assert codes == [2, 2], log[-4000:]
    assert "error: step 2: the " in log and "nothing was changed by this step" in log
    report = json.loads((tmp_path / "run/metrics/diverged.json").read_text())
    samples = [sample for part in report["micro_batches"] for sample in part["samples"]]
    assert report["step"] == 2 and len(samples) == len(set(samples)) == 4, "the global batch: two replicas"
    assert [line["step"] for line in metrics(tmp_path, "run")] == [1]
    assert checkpoint.latest_checkpoint(tmp_path / "run") == tmp_path / "run/checkpoints/step_00000001"


class TestBackgroundWriter:
    """Weights of one process, saved while they change."""

    @pytest.fixture(scope="class")
    def llava(self, model: Path) -> object:
        from omegaconf import OmegaConf

        from nemo_mm_align.parallel.source import build_from, source_settings

        runtime.initialize(ParallelConfig(), seed=1)
        source = source_settings(OmegaConf.create({"hf_path": str(model), "checkpoint": None}))
        yield source, build_from(source, ParallelConfig(), EngineConfig("fp32", "local", "none", 1), None)
        runtime.shutdown()

    def save(self, llava: tuple, folder: Path, step: int, writer: BackgroundWriter | None) -> Path:
        source, built = llava
        metadata = checkpoint.CheckpointMetadata(
            step=step, model=source.config.to_dict(), lora=None, template={}, attribute_schema=None, image_processor={},
            recipe={}, base_path="", base_fingerprint="", precision="fp32",
        )  # fmt: skip
        return checkpoint.save(folder, built, metadata, writer=writer)

    def test_holds_what_the_weights_were_and_counts_only_when_complete(self, llava: tuple, tmp_path: Path) -> None:
        built, writer = llava[1], BackgroundWriter()
        parameter = next(built.language_model.parameters())
        before = parameter.detach().clone()
        path = self.save(llava, tmp_path, 1, writer)
        with torch.no_grad():
            parameter.add_(1.0)
        assert writer.pending and checkpoint.latest_checkpoint(tmp_path) is None
        assert writer.finish() and not writer.pending
        assert checkpoint.latest_checkpoint(tmp_path) == path
        checkpoint.load(path, built)
        assert torch.equal(parameter, before)

    def test_damage_after_writing_is_noticed_and_costs_no_complete_one(self, llava: tuple, tmp_path: Path) -> None:
        first, second, third = (self.save(llava, tmp_path, step, None) for step in (1, 2, 3))
        shard = max((third / "state").glob("*.distcp"), key=lambda path: path.stat().st_size)
        size = shard.stat().st_size
        os.truncate(shard, size - 1)
        with pytest.raises(UserError, match=rf"step_00000003: .*{shard.name} is cut short: {size - 1:,} of {size:,} b"):
            checkpoint.latest_checkpoint(third)
        checkpoint.keep_newest(tmp_path, 2)
        assert sorted(tmp_path.iterdir()) == [first, second, third], "a damaged one does not count, and stays"
        again = self.save(llava, tmp_path, 3, None)
        checkpoint.keep_newest(tmp_path, 1)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000003", "step_00000003.damaged"]
        assert checkpoint.latest_checkpoint(tmp_path) == again

    def test_damage_inside_a_file_of_its_size_is_named_on_reading(self, llava: tuple, tmp_path: Path) -> None:
        path = self.save(llava, tmp_path, 1, None)
        for shard in (path / "state").glob("*.distcp"):
            shard.write_bytes(bytes(shard.stat().st_size))
        with pytest.raises(UserError, match=r"step_00000001: this checkpoint is damaged: .*or move it away"):
            checkpoint.load(path, llava[1])

    def test_lost_writer_is_an_error_and_leaves_the_older_checkpoint(
        self, llava: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writer = BackgroundWriter()
        older = self.save(llava, tmp_path, 1, None)
        ours, put = os.getpid(), _ResultFile.put

        def die_or_put(results: _ResultFile, item: object) -> None:
            if os.getpid() != ours:  # in the writer, with all written and nothing said
                os.kill(os.getpid(), signal.SIGKILL)
            put(results, item)

        monkeypatch.setattr(_ResultFile, "put", die_or_put)
        self.save(llava, tmp_path, 2, writer)
        with pytest.raises(RuntimeError, match=r"was not written[\s\S]*results_queue should not be empty"):
            writer.finish()
        assert checkpoint.latest_checkpoint(tmp_path) == older
        assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
