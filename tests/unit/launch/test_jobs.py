"""From overrides to jobs: wiring between stages, mistakes that are found before anything is written."""

import os
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.repository import ROOT
from nemo_mm_align.launch.checks import find_faults
from nemo_mm_align.launch.kubernetes_settings import amount
from nemo_mm_align.launch.launch import launch
from nemo_mm_align.launch.mounts import Mount, outside, read_mount
from nemo_mm_align.workflow.overrides import override_value, overrides_of
from tests.unit.launch.cases import CONTAINER, DATA, KUBERNETES, PLACES, TRAINING, jobs_of, launch_config

RUN = "/shared/results/first"


@pytest.mark.parametrize(
    "value",
    [
        None, True, 3, -1, 5e-5, 1e22, "x.jsonl", "true", "null", "12", "1e-3", "", " padded ", "a,b", "it's", "back\\slash",
        "end\\", "quote\\'s", "nvcr.io/nvidia/nemo:26.02", "a=b", "${nothing}", "[list]", "What's {this}?", "ü",
        ["a", 1, None, "b c"], {"dpo": "x.jsonl", "ours-2": [1.5, False]}, [], {},
    ],
)  # fmt: skip
def test_values_survive_hydras_grammar(value: object) -> None:
    parsed = OverridesParser.create().parse_override(f"key={override_value(value)}").value()
    assert plain(parsed) == value and type(plain(parsed)) is type(value)


def plain(value: object) -> object:
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return getattr(value, "text", value)


def test_nested_settings_become_dotted_keys() -> None:
    settings = {"data": {"train": "x", "on_fault": "drop"}, "answers": {"dpo": "y"}, "sweep": []}
    found = overrides_of(settings, whole={"answers"})
    assert found == ["data.train=x", "data.on_fault=drop", "answers={dpo:y}", "sweep=[]"]


@pytest.fixture(scope="module")
def chain() -> DictConfig:
    stages = ["sample", "label", "build", "train", "evaluate"]
    return launch_config(*TRAINING, *DATA, *PLACES, "sample.num_samples=8", stages=stages)


def test_each_stage_reads_what_the_one_before_writes(chain: DictConfig) -> None:
    _, jobs = jobs_of(chain)
    assert list(jobs) == ["sample", "label", "build", "train", "generate", "evaluate"]
    values = {
        "sample": {"checkpoint": "/shared/llava", "template.name": "vicuna_v1", "prompts": "/shared/prompts.jsonl"},
        "label": {"prompts": "/shared/prompts.jsonl", "candidates": jobs["sample"].composed.get("out")},
        "build": {"annotations": jobs["label"].composed.get("out"), "method.name": "preference"},
        "train": {"data.train": jobs["build"].composed.get("out"), "exp_manager.exp_dir": RUN, "recipe.name": "dpo"},
        "generate": {"checkpoint": f"{RUN}/dpo", "prompts": "/shared/heldout.jsonl"},
        "evaluate": {"answers": {"dpo": jobs["generate"].composed.get("out")}, "out": f"{RUN}/evaluation"},
    }
    for stage, expected in values.items():
        assert {key: jobs[stage].composed.get(key) for key in expected} == expected
    assert jobs["sample"].composed.get("num_samples") == 8
    assert [jobs[stage].composed.get("tensor_model_parallel_size") for stage in ("sample", "generate")] == [2, 2]
    assert [(job.nodes, job.processes_per_node) for job in jobs.values()] == [
        (2, 8),
        (1, 1),
        (1, 1),
        (2, 8),
        (2, 8),
        (1, 1),
    ]
    assert str(jobs["train"].done_file) == f"{RUN}/dpo/DONE" and jobs["sample"].done_file is None


def test_given_answers_need_no_generation() -> None:
    config = launch_config(
        *TRAINING, *DATA, *PLACES, "evaluate.answers={base: /shared/base.jsonl}", stages=["evaluate"]
    )
    _, jobs = jobs_of(config)
    assert list(jobs) == ["evaluate"] and jobs["evaluate"].composed.get("answers") == {"base": "/shared/base.jsonl"}


@pytest.mark.parametrize(
    ("experiment", "nodes", "devices", "method"),
    [
        ("dpo_llava15_13b_2x8", 2, 8, "preference"),
        ("steerlm_llava15_7b_8x8_fp8", 8, 8, "steerlm"),
        ("sft_mini_1x2", 1, 2, "sft"),
    ],
)
def test_experiments_say_nodes_processes_and_method(experiment: str, nodes: int, devices: int, method: str) -> None:
    overrides = [
        f"run.experiment={experiment}",
        "sample.prompts=/shared/p.jsonl",
        "train.model.hf_path=/shared/m",
        *PLACES,
    ]
    _, jobs = jobs_of(launch_config(*overrides, stages=["sample", "build", "train"]))
    assert [(jobs[stage].nodes, jobs[stage].processes_per_node) for stage in ("sample", "train")] == [
        (nodes, devices)
    ] * 2
    assert jobs["build"].composed.get("method.name") == method
    assert jobs["train"].overrides[0] == f"experiment={experiment}"
    assert str(jobs["train"].done_file) == f"/shared/results/{experiment}/{experiment}/DONE"


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["stages=[train,serve]"], "unknown: serve. Choose from sample, label, annotate, build, train, generate"),
        (["stages=[sample,label,annotate]"], "for the same annotations. Take one of them"),
        (["stages=[annotate]", "annotate.checkpoint=/m", "annotate.values=whole"], "stage annotate: values"),
        (["stages=[annotate]"], "checkpoint without a value. Give it on the command line: annotate.checkpoint=..."),
        (["stages=[]"], "none, or one twice"),
        (["stages=[sample]", "sample.prompts=???"], "sample.prompts=..."),
        (["stages=[label]", "sample.prompts=???"], "sample.prompts=..."),
        (["stages=[sample]", "sample.promts=x"], "promts"),
        (["stages=[label]", "label.judge=gemni"], "gemni"),
        (["stages=[train]", "train.model.hf_path=???"], "train.model.hf_path=..."),
        (["stages=[train]", "train.run.limit=4"], "train.run: limit unknown"),
        (["stages=[train]", "run.name=null"], "the run has no name"),
        (["stages=[train]", "run.experiment=dpo_13b"], "dpo_13b"),
        (
            ['train.overrides=["recipe=attribute_model","model=llava15_13b"]'],
            "stage generate: recipe=attribute_model makes a model that rates answers and gives none. Leave generate and evaluate",
        ),
    ],
)
def test_mistakes_name_the_remedy(overrides: list[str], text: str) -> None:
    with pytest.raises(UserError, match=".") as caught:
        jobs_of(launch_config(*TRAINING, *DATA, *PLACES, *overrides))
    assert text in str(caught.value)


def faults(*overrides: str, stages: list[str] | None = None) -> str:
    settings, jobs = jobs_of(launch_config(*TRAINING, *DATA, *PLACES, *overrides, stages=stages or ["train"]))
    return "\n".join(find_faults(list(jobs.values()), settings))


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither Slurm nor keys."""
    monkeypatch.setenv("PATH", "/nowhere")
    for name in list(os.environ):
        if name.endswith("_API_KEY"):
            monkeypatch.delenv(name)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ([], "sbatch is not on PATH"),
        ([], "launcher_scripts_path=/shared/nemo_mm_align is no folder"),
        (["cluster.gpus_per_node=4"], "2 x 8 = 16 ranks, the cluster gives 2 nodes x 4 GPUs"),
        (["train.trainer.devices=2"], "set cluster.gpus_per_node=2"),
        (["cluster=interactive"], "wants 2 nodes; cluster=interactive is one"),
        (["base_results_dir=results"], "base_results_dir=results is relative"),
        (["base_results_dir=/etc/passwd"], "/etc/passwd/first cannot be written to"),
        (["train.exp_manager.exp_dir=here"], "exp_manager.exp_dir=here is relative"),
        (["train.data.train=/nowhere/x.jsonl"], "data.train=/nowhere/x.jsonl is not there"),
        (["train.exp_manager.create_wandb_logger=true"], "needs WANDB_API_KEY in the environment"),
        (["container=/x.sqsh", "train.data.train=/far/x.jsonl"], "/far/x.jsonl is in none of the container's mounts"),
        ([*KUBERNETES, "container=null"], "needs container=IMAGE"),
        ([*KUBERNETES, "cluster.volumes.shared.mountPath=/a"], "lies on none of cluster.volumes"),
    ],
)  # fmt: skip
def test_faults_are_found_before_anything_is_submitted(overrides: list[str], text: str) -> None:
    assert text in faults(*overrides)


def test_every_file_of_answers_has_to_be_there(tmp_path: Path) -> None:
    (tmp_path / "base.jsonl").touch()
    answers = f"evaluate.answers={{base: {tmp_path}/base.jsonl, dpo: {tmp_path}/dpo.jsonl}}"
    found = faults(answers, f"generate.prompts={tmp_path}/base.jsonl", stages=["evaluate"])
    assert f"answers={tmp_path}/dpo.jsonl is not there" in found and f"{tmp_path}/base.jsonl is not" not in found


@pytest.mark.usefixtures("bare")
def test_a_training_needs_a_model_and_its_images(tmp_path: Path) -> None:
    missing = "no model to start from"
    assert missing in faults("train.model.hf_path=null")
    assert missing not in faults("train.model.hf_path=null", "train.model.checkpoint=/shared/step_4")
    assert f"data.image_root={tmp_path}/images is not there" in faults(f"train.data.image_root={tmp_path}/images")


@pytest.mark.usefixtures("bare")
def test_a_container_that_is_missing_from_its_folder_is_a_mistake(tmp_path: Path) -> None:
    missing = f"container={tmp_path}/x.sqsh is not there"
    assert missing in faults(f"container={tmp_path}/x.sqsh")
    (tmp_path / "x.sqsh").touch()
    assert missing not in faults(f"container={tmp_path}/x.sqsh")
    assert "container=" not in faults("container=/nowhere/x.sqsh"), "a folder that only the compute nodes have"


@pytest.mark.usefixtures("bare")
def test_label_needs_the_key_of_its_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = "export GEMINI_API_KEY=..."
    assert missing in faults(stages=["label"])
    assert missing not in faults("label.judge=oracle", stages=["label"])
    assert missing not in faults('label.overrides=["judge.api_key_file=/shared/key"]', stages=["label"])
    assert "env_secret" in faults(*KUBERNETES, "cluster.env_secret=null", stages=["label"])
    monkeypatch.setenv("GOOGLE_API_KEY", "anything")
    assert missing not in faults(stages=["label"])


def test_mounts() -> None:
    assert str(read_mount("/a")) == "/a:/a" and str(read_mount("/a:/b:ro")) == "/a:/b:ro"
    with pytest.raises(ValueError, match="absolute"):
        read_mount("a:/b")
    mounts = [Mount(Path("/a"), Path("/x")), Mount(Path("/b"), Path("/x/y"))]
    assert outside(Path("/x/y/z"), mounts) == Path("/b/z") and outside(Path("/x/z"), mounts) == Path("/a/z")
    assert outside(Path("/xy"), mounts) is None
    settings, _ = jobs_of(launch_config(*TRAINING, *DATA, *PLACES, *CONTAINER, "data_dir=/data", stages=["train"]))
    assert list(map(str, settings.mounts())) == [
        "/data:/data", "/shared/results:/shared/results", "/shared:/shared", "/lustre/raw:/raw:ro"
    ]  # fmt: skip


def test_paths_of_the_container_are_looked_up_where_they_lie(tmp_path: Path) -> None:
    (tmp_path / "set.jsonl").touch()
    container = ["container=/x.sqsh", f"container_mounts=[{tmp_path}:/data]"]
    assert "data.train" not in faults(*container, "train.data.train=/data/set.jsonl")
    assert "data.train=/data/other.jsonl is not there" in faults(*container, "train.data.train=/data/other.jsonl")


@pytest.mark.parametrize(
    "override",
    [
        "env_vars.WANDB_API_KEY=x", "env_vars.HF_TOKEN=x", "env_vars.MINE=hf_abcdefghijklmnopqrstuvwxyz",
        "env_vars.my_password=x", "env_vars.PLAIN=AIzaSyA1234567890123456789012345678901",
    ],
)  # fmt: skip
def test_secrets_in_env_vars_are_refused_and_not_repeated(override: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="looks like a secret") as caught:
        launch(launch_config(*TRAINING, *DATA, *PLACES, f"base_results_dir={tmp_path}", override, stages=["train"]))
    assert override.partition("=")[2] not in str(caught.value).replace("export", "") or override.endswith("=x")
    assert not list(tmp_path.iterdir())


def test_the_value_of_a_secret_never_reaches_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", "correct-horse-battery")
    extra = ["train.exp_manager.wandb_logger_kwargs.name=correct-horse-battery", f"base_results_dir={tmp_path}"]
    with pytest.raises(UserError, match="would hold the value of MY_SERVICE_TOKEN"):
        launch(launch_config(*TRAINING, *DATA, *PLACES, *extra, stages=["train"]))
    assert not list(tmp_path.iterdir())


SBATCH = """#!/bin/bash
echo "$*" >> "$0.calls"; env | grep WANDB_API_KEY >> "$0.calls"
[ ! -e "$0.full" ] || { echo "Job violates accounting policy" >&2; exit 1; }
echo "$(( 100 + $(wc -l < "$0.calls") ));cluster\""""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for sbatch that numbers the jobs; the real one is used in tests/slurm."""
    program = tmp_path / "programs/sbatch"
    program.parent.mkdir()
    program.write_text(SBATCH.replace('\\"', '"'))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    return program


def submit(tmp_path: Path, *overrides: str) -> str:
    (tmp_path / "prompts.jsonl").touch()
    (tmp_path / "llava").mkdir(exist_ok=True)
    files = [f"sample.prompts={tmp_path}/prompts.jsonl", f"train.model.hf_path={tmp_path}/llava"]
    stages = ["sample", "label", "build", "train"]
    places = [f"base_results_dir={tmp_path}/results", f"launcher_scripts_path={tmp_path}", "label.judge=oracle"]
    return launch(launch_config(*TRAINING, *DATA, *PLACES, *files, *places, *overrides, stages=stages))


def test_a_chain_of_jobs_waits_for_each_other(slurm: Path, tmp_path: Path) -> None:
    key = tmp_path / "wandb"
    key.write_text("very-secret-key\n")
    printed = submit(tmp_path, f"wandb_api_key_file={key}", "train.run.time_limit=08:00:00")
    calls = Path(f"{slurm}.calls").read_text().splitlines()
    run = tmp_path / "results/first"
    assert calls[::2] == [
        f"--parsable --dependency={dependency} {run}/first_{stage}_submission.sh"
        for dependency, stage in [
            ("singleton", "sample"), ("afterok:102,singleton", "label"), ("afterok:104,singleton", "build"),
            ("afterok:106,singleton", "train"),
        ]
    ]  # fmt: skip
    assert set(calls[1::2]) == {"WANDB_API_KEY=very-secret-key"}
    assert printed.splitlines()[-2:] == [
        f"stage train: job 108, {run}/first_train_submission.sh",
        f"tail -F {run}/log-first_sample_102.out {run}/log-first_sample_102.err",
    ]
    written = {path.name: path.read_text() for path in run.iterdir()}
    assert len(written) == 4 * 2 + 2 and not any("very-secret-key" in text for text in written.values())
    assert "#SBATCH --time=08:00:00\n" in written["first_train_submission.sh"]
    assert "#SBATCH --time=1-00:00:00\n" in written["first_label_submission.sh"]
    resolved = yaml.safe_load(written["first_train_hydra.yaml"])
    assert resolved["train"]["data"]["train"] == f"{run}/training.jsonl"
    assert resolved["launch"]["cluster"]["max_requeues"] == 5 and "job 102" in written["launcher.log"]


def test_a_refused_job_says_what_is_already_there(slurm: Path, tmp_path: Path) -> None:
    Path(f"{slurm}.full").touch()
    with pytest.raises(UserError, match="sbatch refused .*first_sample_submission.sh: Job violates accounting policy"):
        submit(tmp_path)


@pytest.mark.parametrize("how", ["setting", "variable"])
def test_dry_run_prints_the_scripts_and_does_nothing(
    slurm: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEMO_LAUNCHER_DEBUG", "1" if how == "variable" else "0")
    printed = submit(tmp_path, f"dry_run={str(how == 'setting').lower()}")
    assert printed.count("#!/bin/bash") == 4 and "'--dependency=afterok:<job of build>,singleton'" in printed
    assert not (tmp_path / "results").exists() and not Path(f"{slurm}.calls").exists()


def test_unknown_keys_of_the_cluster_go_to_sbatch_with_a_warning(
    slurm: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    printed = submit(tmp_path, "dry_run=true", "+cluster.ntasks_per_socket=4", "+cluster.overcommit=true")
    assert printed.count("#SBATCH --ntasks-per-socket=4\n#SBATCH --overcommit\n") == 4
    assert "cluster.ntasks_per_socket is none of conf/cluster/bcm.yaml's keys" in caplog.text


def test_pods_take_the_code_of_their_image() -> None:
    places = ["base_results_dir=/shared/results", *KUBERNETES]
    settings, _ = jobs_of(launch_config(*TRAINING, *DATA, *places, stages=["train"]))
    assert settings.launcher_scripts_path == Path("/opt/nemo_mm_align")
    assert "WORKDIR /opt/nemo_mm_align" in (ROOT / "containers/Dockerfile").read_text(encoding="utf-8")


def test_other_kinds_of_clusters_know_all_their_keys() -> None:
    with pytest.raises(UserError, match="walltime"):
        jobs_of(launch_config(*TRAINING, *DATA, *PLACES, *KUBERNETES, "+cluster.walltime=4", stages=["train"]))


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("resources.requests={cpu: many}", "'many' is no quantity; write 8, 500m, 64Gi"),
        ("resources.limits={nvidia.com/gpu: 8}", "choose from cpu, memory, ephemeral-storage"),
        ("cpu_resources={requests: {memory: 2Gi}, limits: {memory: 2G}}", "memory: the request 2Gi is more than the limit 2G"),
        ("resources={requests: {cpu: 1500m}, limits: {cpu: 1}}", "cpu: the request 1500m is more than the limit 1"),
        ("resources.request={cpu: 8}", "request"),
        ("tolerations=[{key: gpu, operator: Exist}]", "choose from Equal, Exists"),
        ("tolerations=[{key: gpu, operator: Exists, value: yes}]", "operator Exists takes no value"),
        ("tolerations=[{effect: NoSchedule}]", "a key is needed"),
        ("tolerations=[{key: gpu, efect: NoSchedule}]", "efect"),
        ("labels={team: vision language}", "labels.team"),
        ("node_selector={pool name: a100}", "node_selector"),
        ("priority_class=High", "priority_class"),
        ("shm_size=64 GB", "no quantity"),
        ("user=root", "user"),
    ],
)  # fmt: skip
def test_what_kubernetes_would_refuse_is_refused_here(setting: str, text: str) -> None:
    with pytest.raises((UserError, ConfigCompositionException)) as caught:
        jobs_of(launch_config(*TRAINING, *DATA, *PLACES, *KUBERNETES, f"cluster.{setting}", stages=["train"]))
    assert text in str(caught.value)


def test_quantities_that_differ_in_writing_are_equal() -> None:
    assert (
        amount("1Ki") == amount("1.024k") and amount("1000m") == amount("1") and amount("1Ti") == 1024 * amount("1Gi")
    )
    assert amount("1G") < amount("1Gi") and amount("1024Mi") == amount("1Gi")
