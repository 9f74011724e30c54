"""Two-node training jobs on a real Slurm, submitted with the real command, each disturbed in another way.

Tensor and pipeline parallel, one srun task per rank and torchrun: each disturbance meets another combination. A run that
ends well has the losses of the run that nobody disturbed, to the last digit.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Annotation, Prompt, RatedCandidate, Turn, write_records
from tests.slurm.cluster import Cluster
from tests.slurm.jobs import LAYOUTS, STEPS, Job, launch

pytestmark = [pytest.mark.slow, pytest.mark.parallel]

IMAGE = {
    "PYTORCH_VERSION": "2.9.0", "HF_HOME": "/opt/cache/huggingface", "NCCL_DEBUG": "VERSION",
    "CUDA_DEVICE_MAX_CONNECTIONS": "32", "MASTER_ADDR": "203.0.113.1", "MASTER_PORT": "1",
    "NEMO_MM_ALIGN_STOP_FILE": "/nowhere/STOP", "NEMO_MM_ALIGN_FAULT_FILE": "/nowhere/FAULT",
}  # fmt: skip
"""What the image of the container test sets; the job's own values have to win, or its ranks would never meet."""

Submit = Callable[..., Job]
Losses = list[tuple[float, float, float]]


@pytest.fixture(scope="session")
def submit(cluster: Cluster, model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Submit:
    """Submit a training in a folder of its own; arguments are the launcher's."""

    def submit(name: str, layout: str, *arguments: str) -> Job:
        results = tmp_path_factory.mktemp("results")
        (number,) = launch(
            cluster, f"base_results_dir={results}", f"run.name={name}", *training(model, data, layout), *arguments
        )
        return Job(cluster, number, results / name)

    return submit


def training(model: Path, data: Path, layout: str) -> list[str]:
    rows = {"TP2": 8, "PP2": 1}[layout]  # per micro batch, so that a step takes about as long in both
    values = {
        "hf_path": model, "max_length": 200, "micro_batch_size": rows, "global_batch_size": 16, LAYOUTS[layout]: 2,
        "lora.rank": 4, "lora.alpha": 8, "lora.dropout": 0.1, "optim.lr": 1e-2, "optim.eps": 1e-4,
    }  # fmt: skip
    arguments = [f"train.model.{name}={value}" for name, value in values.items()]
    arguments += ['train.overrides=["recipe=sft","model=mini"]', "train.precision=fp32", f"train.data.train={data}"]
    arguments += ["train.trainer.num_nodes=2", "train.trainer.devices=1", f"train.trainer.max_steps={STEPS}"]
    arguments += [
        "train.recipe.epochs=9",
        "train.checkpoint.every_n_steps=4",
        "train.trainer.enable_progress_bar=false",
    ]
    return [*arguments, "preflight=false", "run.time_limit=10", "cluster.signal_grace_s=60"]


@pytest.fixture(scope="session")
def undisturbed_tensor(
    submit: Submit, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Job, list[dict[str, str]], Path]:
    """A TP2 run with a container, the environment of its ranks, and the folder that holds image, model and data."""
    folder = tmp_path_factory.getbasetemp()
    (folder / "nemo.sqsh").write_text("".join(f"{name}={value}\n" for name, value in IMAGE.items()))
    container = [f"container={folder}/nemo.sqsh", f'container_mounts=[{folder},"/usr:/data:ro"]', "preflight=true"]
    job = submit("whole", "TP2", *container, "env_vars.NCCL_DEBUG=WARN")
    job.wait_for_step(1)
    environments = [
        dict(item.partition("=")[::2] for item in Path(f"/proc/{pid}/environ").read_text().split("\0"))
        for pid in job.processes()
    ]
    assert job.finish() == "COMPLETED", job.log()[-6000:]
    return job, environments, folder


@pytest.fixture(scope="session")
def tensor(undisturbed_tensor: tuple[Job, object, Path]) -> Losses:
    return undisturbed_tensor[0].losses()


@pytest.fixture(scope="session")
def preempted_and_urgent(submit: Submit) -> tuple[Job, Job, int]:
    """A TP2 run under torchrun that a PP2 run of a higher partition drives out, and the step that it had reached."""
    urgent = ["cluster.partition=urgent", "+cluster.hold=true"]  # ready before: a launch takes longer than some steps
    high = submit("urgent", "PP2", *urgent, "cluster.process_launcher=torchrun")
    low = submit("low", "TP2", "cluster.process_launcher=torchrun")
    low.wait_for_step(5)
    low.cluster.run("scontrol", "release", high.number)
    assert high.finish() == "COMPLETED", high.log()[-6000:]
    reached = len(low.losses())
    assert low.finish() == "COMPLETED", low.log()[-6000:]
    return low, high, reached


@pytest.fixture(scope="session")
def pipeline(preempted_and_urgent: tuple[Job, Job, int]) -> Losses:
    return preempted_and_urgent[1].losses()


def check(job: Job, expected: Losses, *resumed_at: int) -> None:
    """The job ended well, went on from `resumed_at`, and learned what it would have learned undisturbed."""
    assert job.finish() == "COMPLETED", job.log()[-6000:]
    assert job.starts() == [0, *resumed_at]
    assert job.losses() == expected
    assert json.loads((job.run / "DONE").read_text()) == {"steps": STEPS}
    assert job.newest_checkpoint() == STEPS


def test_script_with_a_container_runs_unchanged(
    undisturbed_tensor: tuple[Job, list[dict[str, str]], Path], repository: Path
) -> None:
    job, environments, folder = undisturbed_tensor
    assert [step for step, *_ in job.losses()] == list(range(1, STEPS + 1))
    assert job.starts() == [0] and (job.run / "DONE").exists()
    assert len(environments) == 2
    for rank, found in enumerate(environments):
        assert found["SLURM_PROCID"] == str(rank)
        assert found["PYXIS_CONTAINER_IMAGE"] == f"{folder}/nemo.sqsh"
        assert found["PYXIS_CONTAINER_WORKDIR"] == str(repository)
        mounts = found["PYXIS_CONTAINER_MOUNTS"].split(",")
        assert {f"{folder}:{folder}", "/usr:/data:ro", f"{repository}:{repository}"} <= set(mounts)
        assert {name for name in IMAGE if found[name] == IMAGE[name]} == {"PYTORCH_VERSION", "HF_HOME"}
        assert (found["NCCL_DEBUG"], found["CUDA_DEVICE_MAX_CONNECTIONS"]) == ("WARN", "1")
        assert (found["RANK"], "WORLD_SIZE" in found) == (str(rank), False)


def test_preempted_run_saves_and_goes_on(preempted_and_urgent: tuple[Job, Job, int], tensor: Losses) -> None:
    low, high, reached = preempted_and_urgent
    assert 5 <= reached < STEPS
    check(low, tensor, reached)
    assert high.starts() == [0] and len(high.losses()) == STEPS


def test_signal_before_the_time_limit_saves_and_goes_on(submit: Submit, pipeline: Losses) -> None:
    job = submit("signalled", "PP2")
    job.wait_for_step(5)
    job.cluster.run("scancel", "--batch", "--signal=USR1", job.number)
    job.wait_for_restart()
    reached = len(job.losses())
    assert 5 <= reached < STEPS and reached == job.newest_checkpoint()
    check(job, pipeline, reached)


def test_requeued_run_saves_and_goes_on(submit: Submit, pipeline: Losses) -> None:
    job = submit("requeued", "PP2", "cluster.process_launcher=torchrun")
    job.wait_for_step(5)
    job.cluster.run("scontrol", "requeue", job.number)
    job.wait_for_restart()
    reached = len(job.losses())
    assert 5 <= reached < STEPS and reached == job.newest_checkpoint()
    check(job, pipeline, reached)


def test_job_that_has_to_leave_during_its_checks_starts_again(submit: Submit) -> None:
    """As when it is preempted: the steps get TERM, and the script decides what becomes of the job."""
    job = submit("checked", "TP2", "cluster.process_launcher=torchrun", "preflight=true")
    job.cluster.wait_for(lambda: len(job.processes(b"scripts/doctor.py")) == 2, 60, job.log)
    job.cluster.run("scancel", "--signal=TERM", job.number)
    job.wait_for_restart()
    assert "preflight failed" not in job.log() and not (job.results / "FAULT").exists() and not job.losses()
    job.cluster.run("scancel", job.number)
    assert job.finish() == "CANCELLED"


def test_cancelled_run_saves_and_a_second_launch_waits_and_goes_on(
    cluster: Cluster, submit: Submit, model: Path, data: Path, tensor: Losses
) -> None:
    job = submit("cancelled", "TP2")
    folder = [f"base_results_dir={job.results.parent}", "run.name=cancelled"]
    (number,) = launch(cluster, *folder, *training(model, data, "TP2"))
    again = Job(cluster, number, job.results)
    job.wait_for_step(5)
    assert cluster.field(number, "Reason") == "Dependency", "two runs would write into one folder"
    cluster.run("scancel", job.number)
    assert job.finish() == "CANCELLED" and cluster.field(job.number, "Restarts") == "0"
    reached = job.newest_checkpoint()
    assert 5 <= reached < STEPS
    check(again, tensor, reached)


def test_killed_rank_and_lost_node_cost_what_was_not_saved(submit: Submit, tensor: Losses) -> None:
    job = submit("killed", "TP2")
    job.wait_for_checkpoint(after=0)
    os.kill(job.processes()[1], signal.SIGKILL)
    began = time.monotonic()
    job.cluster.wait_for(lambda: not job.processes(), 20, job.log)
    assert time.monotonic() - began < 10
    first = job.newest_checkpoint()
    job.wait_for_restart()

    job.wait_for_checkpoint(after=first)
    node = ["scontrol", "update", "NodeName=n2"]
    job.cluster.run(*node, "State=DOWN", "Reason=test")
    job.cluster.wait_for(lambda: job.cluster.state(job.number) == "PENDING" and not job.processes(), 60, job.log)
    second = job.newest_checkpoint()
    job.cluster.run(*node, "State=RESUME")
    assert 4 <= first < second < STEPS
    check(job, tensor, first, second)


def test_stages_after_a_failed_one_never_run(
    cluster: Cluster, submit: Submit, model: Path, data: Path, tmp_path: Path, helpsteer: AttributeSchema
) -> None:
    prompts = [Prompt(id=str(index), turns=(Turn(role="user", content="a red circle"),)) for index in range(16)]
    identity = {"judge": "j", "schema_name": helpsteer.name, "schema_fingerprint": helpsteer.fingerprint}
    candidate = RatedCandidate(text="yes", ratings={name: 4.0 for name in helpsteer.names})
    write_records(tmp_path / "prompts.jsonl", prompts)
    write_records(
        tmp_path / "annotations.jsonl",
        [
            Annotation(prompt=prompt, candidates=(candidate,), reference_answer="no " * 40, **identity)
            for prompt in prompts
        ],
    )
    stages = ["stages=[build,train,generate]", f"build.annotations={tmp_path}/annotations.jsonl"]
    numbers = launch(
        cluster,
        *(argument for argument in training(model, data, "TP2") if not argument.startswith("train.data")),
        *(*stages, f"generate.prompts={tmp_path}/prompts.jsonl", f"base_results_dir={tmp_path}", "run.name=chain"),
        "train.model.max_length=20",
    )
    build, train, generate = (Job(cluster, number, tmp_path / "chain") for number in numbers)
    assert generate.finish() == "CANCELLED", generate.log()[-6000:]
    assert (build.finish(), train.finish()) == ("COMPLETED", "FAILED")
    assert (tmp_path / "chain/training.jsonl").read_bytes().count(b"\n") == 16
    assert "too long" in train.log()
    fields = [cluster.field(job.number, "ExitCode") for job in (build, train)]
    assert fields == ["0:0", "2:0"] and cluster.field(train.number, "Restarts") == "0"
    assert not (tmp_path / "chain/answers.jsonl").exists() and not list(
        (tmp_path / "chain").glob("log-chain_generate*")
    )
