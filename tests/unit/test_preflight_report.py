"""How the doctor words what it found, and what it takes for its own on the command line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.preflight import report
from nemo_mm_align.preflight.finding import Finding, amber, green, merge_nodes, rank_list, red
from nemo_mm_align.preflight.job import Job, split_words
from nemo_mm_align.preflight.ranks import Ranks, ranks_from_environment


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


def test_ranks_of_torchrun_win_over_slurm():
    variables = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "n1"}
    variables |= {"MASTER_PORT": "29500", "TORCHELASTIC_USE_AGENT_STORE": "True", "SLURM_STEP_ID": "0"}
    ranks = ranks_from_environment({**variables, "SLURM_PROCID": "1", "SLURM_NTASKS": "2"})
    assert ranks == Ranks(5, 8, 1, 4, address=("n1", 29500), agent_store=True, restart="0.0")


def test_ranks_of_a_slurm_task():
    variables = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "9", "SLURM_STEP_NUM_TASKS": "12", "SLURM_LOCALID": "1"}
    variables |= {"SLURM_STEP_TASKS_PER_NODE": "8(x1),4", "SLURM_NODEID": "1", "MASTER_PORT": "17000"}
    ranks = ranks_from_environment({**variables, "SLURM_RESTART_COUNT": "2"})
    assert (ranks.rank, ranks.world_size, ranks.local_rank, ranks.local_world_size) == (9, 12, 1, 4)
    assert ranks.restart == "2.0"


def test_a_rank_without_its_number_of_ranks_is_the_container_s_own():
    variables = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "MASTER_PORT": "17000"}
    assert ranks_from_environment({**variables, "RANK": "0", "LOCAL_RANK": "0"}).rank == 3


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


def test_looking_needs_no_torch():
    """On a login node the package is imported, and every check but the collectives', without torch."""
    code = "import sys, nemo_mm_align.preflight.doctor; print({'torch', 'megatron', 'nemo'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
