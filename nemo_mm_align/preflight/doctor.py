"""All checks in order: each node looks at itself, the ranks meet, rank 0 judges and reports."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from nemo_mm_align.capacity.gpus import GPUS
from nemo_mm_align.core.configuration import StrictModel
from nemo_mm_align.core.packages import installed_versions
from nemo_mm_align.core.processes import node_name
from nemo_mm_align.parallel import kernels
from nemo_mm_align.preflight import collectives, credentials, hardware, layout, storage, system, versions
from nemo_mm_align.preflight.finding import Finding, amber, merge_nodes, rank_list, red
from nemo_mm_align.preflight.job import Job, compose_training
from nemo_mm_align.preflight.memory import check_memory_and_disk
from nemo_mm_align.preflight.ranks import Ranks, ranks_from_environment
from nemo_mm_align.preflight.rendezvous import Rendezvous
from nemo_mm_align.preflight.report import exit_code, render, write_json
from nemo_mm_align.training.settings import read_values

_SHARE_TIMEOUT_S = 30.0


@dataclass
class Examination:
    """Outcome on this rank: the text is rank 0's alone, the exit code the same on all."""

    findings: list[Finding] = field(default_factory=list)
    code: int = 0
    text: str = ""


class DoctorSettings(StrictModel):
    """Settings of the doctor; the comments of conf/doctor.yaml say what each means."""

    judge: dict[str, Any] = {}
    asks_judge: bool | None = None
    stages: tuple[str, ...] = ()
    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    gpu: Literal[tuple(GPUS)] | None = None  # type: ignore[valid-type]
    json_file: Path | None = Field(default=None, alias="json")  # a model has a method of that name
    strict: bool = False
    timeout_s: Annotated[float, Field(gt=0, le=1e6)] = 120


def job_from_config(config: DoctorSettings, words: Sequence[str]) -> Job:
    """What is to be checked, from conf/doctor.yaml's values and the words of scripts/train.py.

    Raises:
        UserError: an unknown stage, or a training configuration that cannot be composed.
    """
    training = compose_training(words) if words else None
    if training is not None:
        read_values(training)
    return Job(
        stages=config.stages,
        judge=config.judge,
        asks_judge=config.asks_judge,
        read=config.read,
        write=config.write,
        training=training,
    )


def examine(
    config: DoctorSettings, words: Sequence[str], publish: Callable[[Examination], None], colour: bool = False
) -> Examination:
    """Run every check; all ranks of a run call this together.

    Args:
        config: conf/doctor.yaml.
        words: overrides of scripts/train.py; none checks the machine alone.
        publish: called by rank 0 before any rank learns the exit code: Slurm kills the others as soon as one fails.
        colour: colour the levels of the text.
    """
    ranks, job = ranks_from_environment(), job_from_config(config, words)
    gpus = hardware.query_gpus() if ranks.first_of_node else None
    local = node_findings(job, ranks, gpus) if ranks.first_of_node else []
    rendezvous = Rendezvous(ranks, config.timeout_s)
    outcome = Examination(_together(rendezvous, job, local))
    if ranks.rank == 0:
        findings = outcome.findings = [*outcome.findings, *job_findings(job, ranks, gpus, config.gpu)]
        outcome.code = exit_code(findings, config.strict)
        outcome.text = render(findings, colour)
        if config.json_file:
            facts = {"ranks": ranks.world_size, "stages": list(job.stages), "versions": versions.fingerprint()}
            write_json(config.json_file, findings, facts, outcome.code)
        publish(outcome)
    outcome.code = rendezvous.tell("code", outcome.code)
    rendezvous.part()
    return outcome


def node_findings(job: Job, ranks: Ranks, gpus: Sequence[hardware.Gpu] | None) -> list[Finding]:
    """What one node can tell of itself; one rank of each node does so."""
    environment, gpu = os.environ, bool(gpus)
    source, pins = versions.pins_of_this_place()
    names = sorted({*pins, *versions.ENGINE_RANGES})
    found = installed_versions(names)
    fabric = system.adapters()
    nodes = ranks.world_size // max(1, ranks.local_world_size)
    # One process that looks at a run of many, on a login node: what it lacks itself does not matter.
    ahead = ranks.world_size == 1 and (job.planned_world_size or 1) > 1
    precision = job.precision if job.trains and not ahead else "fp32"
    tensor = job.value("model.tensor_model_parallel_size", 1)
    implementation = "auto" if ahead else job.value("model.transformer_impl", "auto")
    findings: list[Finding | None] = [
        versions.check_python(),
        versions.check_pins(source, pins, found),
        versions.check_engine(found),
        versions.check_checkout(Path(sys.argv[0])),
        *versions.check_kernels(kernels.installed(import_them=gpu), gpu, precision, implementation),
        *hardware.check_gpus(gpus, ranks.local_world_size, precision, precision != "fp32"),
        _torch(gpus),
        system.check_shared_memory(system.shared_memory_size(), ranks.local_world_size > 1),
        *system.check_limits(system.read_limits(), bool(fabric)),
        system.check_caches(environment),
        *system.check_nccl(environment, system.interfaces(), fabric, gpu, nodes),
        system.check_connections(environment, gpus[0].capability if gpus else None, tensor),
        *storage.check_inputs(storage.inputs_of(job)),
        *storage.check_outputs([*job.write, *([job.results] if job.results and job.results not in job.write else [])]),
    ]
    return [finding for finding in findings if finding is not None]


def _torch(gpus: Sequence[hardware.Gpu] | None) -> Finding:
    if importlib.util.find_spec("torch") is None:
        return red("torch", "not installed", "bash scripts/environment.sh, or the NGC image")
    return collectives.check_torch(collectives.torch_device(), hardware.visible(os.environ, len(gpus or [])))


def job_findings(
    job: Job, ranks: Ranks, gpus: Sequence[hardware.Gpu] | None, gpu_type: str | None = None
) -> list[Finding]:
    """What does not depend on the node: one rank looks."""
    findings = [*storage.check_open_values(job), *credentials.check_credentials(job, os.environ)]
    if job.trains:
        findings += layout.check_layout(job, ranks.world_size)
        findings += check_memory_and_disk(job, ranks, gpus, gpu_type)
    mpi = system.check_mpi(os.environ, *system.slurm_mpi())
    return [*findings, *([mpi] if mpi else [])]


def _together(rendezvous: Rendezvous, job: Job, local: list[Finding]) -> list[Finding]:
    """Everything that takes more than one rank; the list is complete on rank 0 only."""
    ranks = rendezvous.ranks
    roll = rendezvous.roll_call(node_name())
    mine: dict[str, Any] = {"node": node_name(), "findings": [finding.to_dict() for finding in local]}
    if ranks.world_size > 1:
        mine |= {"skew": _skew(rendezvous), "token": _read_token(rendezvous, job.results)}
        mine |= {"fingerprint": versions.fingerprint(), "device": collectives.torch_device()}
    everyone = rendezvous.gather("findings", mine)
    summary = _summed_up(everyone, ranks, job.results) if ranks.rank == 0 else []
    plan = rendezvous.tell("backend", _plan(everyone, rendezvous) if ranks.rank == 0 else None)
    reduced = collectives.check_collectives(rendezvous, plan["backend"]) if plan["run"] else None
    if ranks.rank != 0:
        return []
    shared = [finding for finding in (roll, *summary, reduced) if finding is not None]
    nodes = [(values["node"], [Finding.from_dict(f) for f in values["findings"]]) for values in everyone.values()]
    return [*merge_nodes([node for node in nodes if node[1]]), *shared]


def _plan(everyone: Mapping[int, Mapping[str, Any]], rendezvous: Rendezvous) -> dict[str, Any]:
    """Whether an all-reduce can be tried, and over what: only with every rank there, or it would hang."""
    world = rendezvous.ranks.world_size
    if world == 1 or len(everyone) < world:
        return {"run": False, "backend": None}
    return {"run": True, "backend": collectives.choose_backend({r: v["device"] for r, v in everyone.items()})}


def _skew(rendezvous: Rendezvous) -> float:
    """This rank's clock minus rank 0's; all wait for rank 0's word, so that it arrives at once."""
    rendezvous.gather("ready", None)
    return time.time() - rendezvous.tell("clock", time.time() if rendezvous.ranks.rank == 0 else None)  # type: ignore[no-any-return]


def _read_token(rendezvous: Rendezvous, folder: Path | None) -> dict[str, Any]:
    """Let rank 0 write a file and every rank read it: seconds until it was seen (``None``: never), and rank 0's error."""
    leads = rendezvous.ranks.rank == 0
    name = f".doctor-{os.getpid()}-{time.time_ns()}" if leads else ""
    error = storage.write_token(folder, name) if leads and folder else None
    token = rendezvous.tell("token", {"name": name, "error": error, "written": folder is not None and not error})
    delay = None
    if folder and token["written"]:
        delay = storage.wait_for_token(folder, token["name"], min(_SHARE_TIMEOUT_S, rendezvous.timeout_s / 4))
    rendezvous.gather("token read", None)
    if leads and folder:
        storage.remove_token(folder, name)
    return {"delay": delay, "error": token["error"]}


def _summed_up(everyone: Mapping[int, Mapping[str, Any]], ranks: Ranks, results: Path | None) -> list[Finding]:
    if ranks.world_size == 1:
        return []
    nodes = {rank: values["node"] for rank, values in everyone.items()}
    silent = sorted(set(range(ranks.world_size)) - set(everyone))
    findings = [versions.check_same_everywhere({rank: values["fingerprint"] for rank, values in everyone.items()})]
    findings.append(storage.check_clocks({rank: values["skew"] for rank, values in everyone.items()}, nodes))
    findings.append(_shared_folder(everyone, nodes, results))
    if silent:
        remedy = "look for their errors in the log"
        findings.append(red("collectives", f"not tried without ranks {rank_list(silent)}", remedy))
    return findings


def _shared_folder(everyone: Mapping[int, Mapping[str, Any]], nodes: Mapping[int, str], folder: Path | None) -> Finding:
    title = "shared file system"
    if folder is None:
        return amber(title, "not tried: no results folder is known", "give exp_manager.exp_dir=... or write=[FOLDER]")
    error = next((error for values in everyone.values() if (error := values["token"]["error"])), None)
    if error:
        return red(title, f"rank 0 cannot write there: {error}", "choose another folder, or mount it writable")
    return storage.check_shared(folder, {rank: values["token"]["delay"] for rank, values in everyone.items()}, nodes)
