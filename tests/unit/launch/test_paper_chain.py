"""chain=paper: the seed paper's stages around each of its trainings."""

from __future__ import annotations

import pytest

from nemo_mm_align.capacity.run import compose_training
from nemo_mm_align.launch.costs import Costs
from tests.unit.launch.cases import DATA, PLACES, jobs_of, launch_config

METHODS = {"sft": "sft", "rejection": "rejection", "steerlm": "steerlm_paper", "dpo": "preference"}


@pytest.mark.parametrize("method", METHODS)
def test_the_chain_is_the_papers(method: str) -> None:
    words = ("chain=paper", f"run.experiment=paper/{method}", "train.model.hf_path=/shared/llava", *DATA[:2], *PLACES)
    config = launch_config(*words)
    config.stages = ["sample", "label", "build", "train", "evaluate"]
    settings, jobs = jobs_of(config)
    assert settings.run.name == f"paper_{method}" and str(settings.run.results_dir) == f"/shared/results/paper_{method}"
    assert list(jobs) == ["sample", "label", "build", "train", "generate", "evaluate"]
    sample = {
        key: jobs["sample"].composed.get(key) for key in ("num_samples", "temperature", "top_p", "max_new_tokens")
    }
    assert sample == {"num_samples": 4, "temperature": 0.7, "top_p": 1.0, "max_new_tokens": 1024}
    assert jobs["label"].composed.get("reference_answer") is True
    assert jobs["build"].composed.get("method.name") == METHODS[method]
    assert jobs["build"].composed.get("attribute_schema.name") == "helpsteer"
    values = compose_training([f"experiment=paper/{method}"])
    assert jobs["train"].composed.get("model.optim.lr") == values["model"]["optim"]["lr"]
    assert jobs["train"].done_file is not None and jobs["train"].done_file.parent.name == f"paper_{method}"
    costs = {one.stage: one for one in Costs(settings, list(jobs.values())).stages()}
    assert costs["label"].judge.calls == 6000 and costs["sample"].what == "6,000 prompts, 4 answers each"


def test_the_chain_gives_way_to_the_command_line() -> None:
    config = launch_config("chain=paper", "sample.temperature=1.2", "run.name=x", *PLACES, *DATA[:2], stages=["sample"])
    assert (config.stages, config.sample.temperature, config.sample.num_samples) == (["sample"], 1.2, 4)
    assert launch_config("chain=paper", stages=["train"]).costs.expected_prompts == 6000
