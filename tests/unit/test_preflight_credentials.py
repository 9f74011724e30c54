"""Keys of the judge, of Weights & Biases and of the hub: asked for where they are used, their values never shown."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from nemo_mm_align.preflight import credentials
from nemo_mm_align.preflight.finding import Level
from nemo_mm_align.preflight.job import Job
from tests.unit.finding_levels import levels


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
