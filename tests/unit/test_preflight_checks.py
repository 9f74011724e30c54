"""Each check of the doctor: what is green, and every way to amber and red."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from nemo_mm_align.errors import UserError
from nemo_mm_align.parallel.kernels import PACKAGES, Installed
from nemo_mm_align.preflight import collectives, credentials, hardware, report, storage, system, versions
from nemo_mm_align.preflight.finding import Finding, Level, amber, green, merge_nodes, rank_list, red
from nemo_mm_align.preflight.job import Job, split_words
from nemo_mm_align.preflight.ranks import Ranks, ranks_from_environment

H100 = "0, NVIDIA H100 80GB HBM3, 81559, 4, 550.54, 9.0, Disabled, Enabled, 0"
A100 = "1, NVIDIA A100-SXM4-80GB, 81920, 30000, 550.54, 8.0, Enabled, Disabled, 3"
BF16 = {"training": {"precision": "bf16"}}


def levels(findings):
    return [finding.level.name for finding in findings]


# --- findings and report


def test_ranks_are_written_shortly():
    assert rank_list([7, 0, 1, 2, 3, 9, 10]) == "0-3, 7, 9-10"


def test_findings_of_many_nodes_become_one_list():
    same, odd = green("Python", "3.11"), red("GPUs", "none", "ask for some")
    merged = merge_nodes([("a", [same]), ("b", [same, odd]), ("c", [same])])
    assert merged == [same, red("GPUs", "b: none", "ask for some")]


@pytest.mark.parametrize(
    ("found", "strict", "code"),
    [
        ([green("a", "")], True, 0),
        ([amber("a", "", "")], False, 0),
        ([amber("a", "", "")], True, 2),
        ([green("a", ""), red("b", "", "")], False, 2),
    ],
)
def test_exit_code(found, strict, code):
    assert report.exit_code(found, strict) == code


def test_report_shows_remedies_of_what_is_not_green_and_json_holds_all(tmp_path):
    findings = [green("Python", "3.11.7"), red("GPUs", "none", "ask for some"), amber("NCCL", "slow", "unset it")]
    text = report.render(findings)
    assert "RED   GPUs" in text and "-> ask for some" in text and "-> unset it" in text
    assert text.endswith("RED: 1 red, 1 amber, 1 green of 3 checks")
    report.write_json(tmp_path / "deep" / "doctor.json", findings, {"ranks": 2}, 2)
    stored = json.loads((tmp_path / "deep" / "doctor.json").read_text())
    assert (stored["verdict"], stored["exit_code"], stored["ranks"]) == ("red", 2, 2)
    assert [Finding.from_dict(values) for values in stored["findings"]] == findings


# --- ranks and words


def test_ranks_of_torchrun_win_over_slurm():
    variables = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "n1"}
    variables |= {"MASTER_PORT": "29500", "TORCHELASTIC_USE_AGENT_STORE": "True", "SLURM_STEP_ID": "0"}
    ranks = ranks_from_environment({**variables, "SLURM_PROCID": "1", "SLURM_NTASKS": "2"})
    assert ranks == Ranks(5, 8, 1, 4, ("n1", 29500), True, "0.0")


def test_ranks_of_a_slurm_task():
    variables = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "9", "SLURM_STEP_NUM_TASKS": "12", "SLURM_LOCALID": "1"}
    variables |= {"SLURM_STEP_TASKS_PER_NODE": "8(x1),4", "SLURM_NODEID": "1", "MASTER_PORT": "17000"}
    ranks = ranks_from_environment({**variables, "SLURM_RESTART_COUNT": "2"})
    assert (ranks.rank, ranks.world_size, ranks.local_rank, ranks.local_world_size) == (9, 12, 1, 4)
    assert ranks.restart == "2.0"


def test_the_batch_shell_of_a_slurm_job_is_one_process():
    assert ranks_from_environment({"SLURM_NTASKS": "16", "SLURM_PROCID": "0"}).world_size == 1


@pytest.mark.parametrize(
    "variables", [{"WORLD_SIZE": "two"}, {"WORLD_SIZE": "2", "RANK": "2", "MASTER_PORT": "1"}, {"WORLD_SIZE": "2"}]
)
def test_ranks_that_cannot_be(variables):
    with pytest.raises(UserError):
        ranks_from_environment(variables)


def test_words_of_the_training_are_told_from_the_doctors_own():
    words = ["stages=[train]", "recipe=dpo", "--config-dir", "json=a.json", "model.optim.lr=1", "+trainer.devices=2"]
    own, training = split_words(words, {"stages", "json"})
    assert own == ["stages=[train]", "--config-dir", "json=a.json"]
    assert training == ["recipe=dpo", "model.optim.lr=1", "+trainer.devices=2"]


def test_unknown_stage():
    with pytest.raises(UserError, match="tarin is no stage"):
        Job(stages=("tarin",))


# --- versions and kernels


def test_python_version():
    assert versions.check_python((3, 12, 1)).level == Level.GREEN
    assert versions.check_python((3, 10, 9)).level == Level.RED


def test_pins():
    pins = versions.read_pins("a==1.0  # why\nnemo_toolkit[lightning]==2.7.3\n# b==2\n")
    assert pins == {"a": "1.0", "nemo-toolkit": "2.7.3"}
    assert versions.check_pins("file", pins, {"a": "1.0+cpu", "nemo-toolkit": "2.7.3"}).level == Level.GREEN
    other = versions.check_pins("file", pins, {"a": "1.1", "nemo-toolkit": "2.7.3"})
    assert other.level == Level.AMBER and "a 1.1 (pinned 1.0)" in other.detail
    missing = versions.check_pins("file", pins, {"a": "1.0", "nemo-toolkit": None})
    assert missing.level == Level.RED and missing.detail == "missing: nemo-toolkit"
    assert versions.check_pins("file", {}, {}).level == Level.AMBER


def test_engine_versions():
    ngc = {
        "torch": "2.10.0a0+b4e4ee81d3.nv25.12",
        "megatron-core": "0.16.0",
        "nemo-toolkit": "2.7.0",
        "hydra-core": "1.3.2",
    }
    assert versions.check_engine(ngc).level == Level.GREEN
    later = versions.check_engine({**ngc, "megatron-core": "0.17.0"})
    assert later.level == Level.RED and "megatron-core 0.17.0" in later.detail


@pytest.mark.parametrize(
    ("version", "error", "gpu", "precision", "expected"),
    [
        ("2.12", None, True, "fp8_delayed", "GREEN"),
        (None, None, False, "bf16", "GREEN"),
        (None, None, True, "bf16", "AMBER"),
        (None, None, True, "fp8_delayed", "RED"),
        ("2.12", None, False, "fp8_delayed", "RED"),
        ("2.12", "undefined symbol", True, "bf16", "RED"),
    ],
)
def test_transformer_engine(version, error, gpu, precision, expected):
    (finding,) = versions.check_kernels([Installed(PACKAGES[0], version, error)], gpu, precision)
    assert finding.level.name == expected


def test_kernels_that_nobody_needs_are_green_and_say_what_is_lost():
    apex, flash = versions.check_kernels([Installed(PACKAGES[1], None), Installed(PACKAGES[2], None)], True, "bf16")
    assert apex.level == flash.level == Level.GREEN
    assert "slower" in apex.detail and "nothing is lost" in flash.detail


def test_ranks_with_other_versions_are_named():
    base = {"torch": "2.10", "source": "aa", "commit": "c"}
    assert versions.check_same_everywhere({0: base, 1: base}).level == Level.GREEN
    finding = versions.check_same_everywhere({0: base, 1: base, 2: {**base, "source": "bb"}})
    assert finding.level == Level.RED and "source: aa on ranks 0-1, bb on ranks 2" in finding.detail


def test_scripts_and_package_of_different_checkouts(tmp_path):
    for name, text in (("job", "a"), ("image", "b"), ("copy", "a")):
        (tmp_path / name / "nemo_mm_align").mkdir(parents=True)
        (tmp_path / name / "nemo_mm_align" / "module.py").write_text(text)
    script = tmp_path / "job" / "scripts" / "doctor.py"
    assert versions.check_checkout(script, tmp_path / "job") is None
    assert versions.check_checkout(script, tmp_path / "copy").level == Level.GREEN
    assert versions.check_checkout(script, tmp_path / "image").level == Level.RED


def test_the_fingerprint_holds_versions_and_source():
    found = versions.fingerprint()
    assert found["python"].startswith("3.") and found["megatron-core"] != "missing" and len(found["source"]) == 12


# --- GPUs and torch


def test_gpus_in_order():
    (finding,) = hardware.check_gpus(hardware.parse_smi(H100), 1, "fp8_delayed", True, {})
    assert finding.level == Level.GREEN
    assert "NVIDIA H100 80GB HBM3, 80 GiB, driver 550.54, compute capability 9.0, FP8 yes" in finding.detail


def test_every_trouble_with_gpus():
    gpus = hardware.parse_smi(f"{H100}\n{A100}\n")
    found = hardware.check_gpus(gpus, 4, "fp8_delayed", True, {"CUDA_VISIBLE_DEVICES": "0"})
    assert {finding.title: finding.level.name for finding in found} == {
        "GPUs": "AMBER",  # unlike ones
        "GPU memory errors": "RED",
        "GPUs in use": "AMBER",
        "MIG": "AMBER",
        "ECC": "AMBER",
        "GPUs per rank": "RED",
        "FP8": "RED",
    }


def test_a_gpu_without_ecc_and_mig():
    (gpu,) = hardware.parse_smi("0, Quadro, 8192, 10, 550, 7.5, [N/A], [N/A], [N/A]")
    assert (gpu.ecc_errors, gpu.mig, gpu.fp8) == (0, "[N/A]", False)


@pytest.mark.parametrize(
    ("precision", "wanted", "variables", "expected"),
    [
        ("fp32", False, {}, "GREEN"),
        ("bf16", True, {}, "AMBER"),
        ("fp8_delayed", True, {}, "RED"),
        ("fp32", False, {"SLURM_JOB_GPUS": "0,1"}, "RED"),
    ],
)
def test_no_gpu(precision, wanted, variables, expected):
    (finding,) = hardware.check_gpus(None, 1, precision, wanted, variables)
    assert finding.level.name == expected


@pytest.mark.parametrize(
    ("build", "usable", "there", "expected"),
    [(None, 0, 0, "GREEN"), ("12.9", 8, 8, "GREEN"), (None, 0, 8, "RED"), ("12.9", 0, 8, "RED")],
)
def test_torch_sees_the_gpus(build, usable, there, expected):
    finding = collectives.check_torch({"torch": "2.10", "cuda_build": build, "gpus": usable}, there)
    assert finding.level.name == expected


# --- collectives


def test_backend():
    with_gpu, without = {"gpus": 8}, {"gpus": 0}
    assert collectives.choose_backend({0: with_gpu, 1: with_gpu}) == "nccl"
    assert collectives.choose_backend({0: without, 1: without}) == "gloo"
    assert collectives.choose_backend({0: with_gpu, 1: without}) is None


def test_outcomes_of_the_all_reduce():
    good = {"error": None, "setup_s": 1.0, "latency_s": 1e-4, "gb_per_s": 300.0}
    assert collectives.judge_outcomes({0: good, 1: good}, 2, "nccl").level == Level.GREEN
    assert collectives.judge_outcomes({0: good, 1: {**good, "gb_per_s": 0.5}}, 2, "nccl").level == Level.AMBER
    broken = collectives.judge_outcomes({0: good, 1: {**good, "error": "sum over ranks is 4 and not 6"}}, 3, "nccl")
    assert broken.level == Level.RED
    assert "sum over ranks is 4 and not 6 (ranks 1)" in broken.detail and "no report from ranks 2" in broken.detail


# --- system


def test_shared_memory():
    assert system.check_shared_memory(2**34, True).level == Level.GREEN
    assert system.check_shared_memory(2**29, True).level == Level.AMBER
    assert system.check_shared_memory(2**26, True).level == Level.RED
    assert system.check_shared_memory(2**26, False).level == Level.AMBER


@pytest.mark.parametrize(
    ("files", "locked", "processes", "infiniband", "expected"),
    [
        (65536, -1, -1, True, ["GREEN"]),
        (65536, 65536, -1, False, ["GREEN"]),
        (65536, 65536, -1, True, ["AMBER"]),
        (1024, -1, 1000, False, ["AMBER", "AMBER"]),
        (256, -1, -1, False, ["RED"]),
        (-1, -1, -1, True, ["GREEN"]),
    ],
)
def test_limits(files, locked, processes, infiniband, expected):
    limits = {"files": files, "locked_memory": locked, "processes": processes}
    assert levels(system.check_limits(limits, infiniband)) == expected


def test_caches(tmp_path):
    assert system.check_caches({"HOME": str(tmp_path)}).level == Level.GREEN
    closed = system.check_caches({"HOME": str(tmp_path), "TRITON_CACHE_DIR": "/proc/version/triton"})
    assert closed.level == Level.AMBER and "TRITON_CACHE_DIR (/proc/version/triton)" in closed.detail


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ["GREEN"]),
        ({"NCCL_SOCKET_IFNAME": "eth"}, ["GREEN"]),
        ({"NCCL_SOCKET_IFNAME": "^docker,lo"}, ["GREEN"]),
        ({"NCCL_SOCKET_IFNAME": "=eth"}, ["RED"]),
        ({"NCCL_SOCKET_IFNAME": "ib0"}, ["RED"]),
        ({"NCCL_TOPO_FILE": "/nowhere.xml"}, ["RED"]),
        ({"NCCL_P2P_DISABLE": "1", "NCCL_DEBUG": "INFO"}, ["AMBER", "AMBER"]),
        ({"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0"}, ["AMBER"]),
    ],
)
def test_nccl(variables, expected):
    assert levels(system.check_nccl(variables, ["eth0", "lo"], ["mlx5_0"], True, 2)) == expected


def test_nodes_without_a_fast_network():
    (finding,) = system.check_nccl({}, ["eth0"], [], True, 2)
    assert finding.level == Level.AMBER and "TCP" in finding.detail
    assert levels(system.check_nccl({}, ["eth0"], [], True, 1)) == ["GREEN"]


def test_connections():
    assert system.check_connections({}, 9.0, 1) is None
    assert system.check_connections({}, 10.0, 8) is None
    assert system.check_connections({"CUDA_DEVICE_MAX_CONNECTIONS": "1"}, 9.0, 8) is None
    assert system.check_connections({}, 9.0, 8).level == Level.AMBER


def test_mpi():
    assert system.check_mpi({}, None, None) is None
    assert system.check_mpi({}, "MPI plugin types are...\nnone\npmix", "none").level == Level.GREEN
    assert system.check_mpi({}, "none pmix", "pmix").level == Level.AMBER
    assert system.check_mpi({"SLURM_MPI_TYPE": "pmix_v4"}, None, None).level == Level.AMBER


# --- storage


def test_inputs(tmp_path):
    data = tmp_path / "a.jsonl"
    data.write_text("{}\n")
    found = storage.check_inputs({"data.train": str(data), "model.hf_path": str(tmp_path / "gone")})
    assert levels(found) == ["GREEN", "RED"] and "gone: no such file or folder" in found[1].detail
    assert storage.check_inputs({"data.train": "org/dataset"}) == []


def test_unreadable_input(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *arguments: False)  # root may read everything
    (finding,) = storage.check_inputs({"read[0]": str(tmp_path)})
    assert finding.level == Level.RED and "cannot be read" in finding.detail


def test_outputs(tmp_path):
    found = storage.check_outputs([tmp_path, tmp_path / "new", Path("/proc/version/results")])
    assert levels(found) == ["GREEN", "GREEN", "RED"]


def test_disk():
    assert storage.check_disk(100, 10, 2).level == Level.GREEN
    assert storage.check_disk(40, 10, 2).level == Level.AMBER
    assert storage.check_disk(20, 10, 2).level == Level.RED


def test_token_is_seen_only_in_the_same_folder(tmp_path):
    assert storage.write_token(tmp_path / "a", "token") is None
    assert storage.wait_for_token(tmp_path / "a", "token", 1) < 1
    assert storage.wait_for_token(tmp_path / "b", "token", 0.1) is None
    storage.remove_token(tmp_path / "a", "token")
    assert list((tmp_path / "a").iterdir()) == []
    assert "Not a directory" in storage.write_token(Path("/proc/version/x"), "token")


def test_shared_folder_names_the_blind_ranks():
    nodes = {0: "a", 1: "a", 2: "b", 3: "b"}
    assert storage.check_shared(Path("/r"), dict.fromkeys(nodes, 0.1), nodes).level == Level.GREEN
    assert storage.check_shared(Path("/r"), {**dict.fromkeys(nodes, 0.1), 3: 9.0}, nodes).level == Level.AMBER
    blind = storage.check_shared(Path("/r"), {0: 0.1, 1: 0.1, 2: None, 3: None}, nodes)
    assert blind.level == Level.RED and "ranks 2-3 (b)" in blind.detail


def test_clocks():
    assert storage.check_clocks({0: 0.0, 1: 0.01}, {}).level == Level.GREEN
    late = storage.check_clocks({0: 0.0, 1: -3.5}, {1: "b"})
    assert late.level == Level.AMBER and "3.50 s apart (rank 1, b)" in late.detail


def test_open_values():
    assert storage.check_open_values(Job()) == []
    (finding,) = storage.check_open_values(
        Job(training={"data": {"train": "???"}, "exp_manager": {"exp_dir": "r"}, "model": {}})
    )
    assert finding.level == Level.AMBER and "data.train, model.hf_path" in finding.detail


# --- credentials


@pytest.mark.parametrize(
    ("judge", "variables", "expected"),
    [
        ("gemini", {"GOOGLE_API_KEY": "secret-value"}, "GREEN"),
        ("gemini", {"GEMINI_API_KEY": "  "}, "RED"),
        ("openai_compatible", {"OPENAI_API_KEY": "secret-value"}, "GREEN"),
        ("openai_compatible", {}, "RED"),
        ("oracle", {}, "GREEN"),
    ],
)
def test_key_of_every_judge(repository, judge, variables, expected):
    settings = OmegaConf.to_container(OmegaConf.load(repository / "conf" / "judge" / f"{judge}.yaml"))
    (finding,) = credentials.check_credentials(Job(stages=("label",), judge=settings), variables)
    assert finding.level.name == expected
    assert "secret-value" not in f"{finding.detail}{finding.remedy}"


def test_key_file_of_the_judge(tmp_path):
    job = Job(stages=("label",), judge={"api_key_file": str(tmp_path / "key")})
    assert levels(credentials.check_credentials(job, {})) == ["RED"]
    (tmp_path / "key").write_text("secret-value")
    (finding,) = credentials.check_credentials(job, {})
    assert finding.level == Level.GREEN and "secret-value" not in finding.detail


def test_a_judge_without_a_key():
    judge = {"api_key_variable": None, "api_key_file": None}
    assert levels(credentials.check_credentials(Job(stages=("label",), judge=judge), {})) == ["GREEN"]


def test_keys_are_asked_for_only_by_the_stages_that_use_them():
    assert credentials.check_credentials(Job(stages=("build", "evaluate")), {}) == []


@pytest.mark.parametrize(
    ("variables", "netrc", "expected"),
    [
        ({"WANDB_API_KEY": "k"}, None, "GREEN"),
        ({"WANDB_MODE": "offline"}, None, "GREEN"),
        ({}, "machine api.wandb.ai login user password k", "GREEN"),
        ({}, None, "RED"),
    ],
)
def test_weights_and_biases(tmp_path, variables, netrc, expected):
    if netrc:
        (tmp_path / ".netrc").write_text(netrc)
    job = Job(training={"exp_manager": {"create_wandb_logger": True}})
    (finding,) = credentials.check_credentials(job, {"HOME": str(tmp_path), **variables})
    assert finding.level.name == expected and "password" not in finding.detail


@pytest.mark.parametrize(
    ("variables", "expected"), [({"HF_TOKEN": "k"}, "GREEN"), ({}, "AMBER"), ({"HF_HUB_OFFLINE": "1"}, "AMBER")]
)
def test_hub_token(variables, expected):
    (finding,) = credentials.check_credentials(Job(training={"data": {"train": "org/preferences"}}), variables)
    assert finding.level.name == expected


def test_looking_needs_no_torch():
    """On a login node the package is imported, and every check but the collectives', without torch."""
    code = "import sys, nemo_mm_align.preflight.doctor; print({'torch', 'megatron', 'nemo'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
