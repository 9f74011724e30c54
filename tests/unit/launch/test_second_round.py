"""A second round as a chain of jobs: what annotate takes from the stage before it, and what it hands on."""

from pathlib import Path

from nemo_mm_align.launch.checks import find_faults
from tests.unit.launch.cases import DATA, PLACES, jobs_of, launch_config


def test_a_second_round_is_a_chain(tmp_path: Path) -> None:
    """Candidates of a steerable model, asked for what good answers had, rated by an attribute model."""
    settings = [
        'train.overrides=["recipe=steerlm","model=llava15_13b"]',
        "train.trainer.num_nodes=2",
        "train.trainer.devices=8",
    ]
    settings += ["train.model.tensor_model_parallel_size=2", "train.model.hf_path=/shared/llava"]
    settings += ["sample.checkpoint=/shared/steerlm", "sample.draw_from=/shared/annotations.jsonl"]
    settings += ["annotate.checkpoint=/shared/rater", "annotate.pipeline_model_parallel_size=2"]
    config = launch_config(*settings, *DATA, *PLACES, stages=["sample", "annotate", "build", "train"])
    _, jobs = jobs_of(config)
    values = {
        "sample": {"checkpoint": "/shared/steerlm", "draw_from": "/shared/annotations.jsonl"},
        "annotate": {
            "checkpoint": "/shared/rater",
            "prompts": "/shared/prompts.jsonl",
            "candidates": jobs["sample"].composed.get("out"),
            "tensor_model_parallel_size": 2,
            "pipeline_model_parallel_size": 2,
        },
        "build": {"annotations": jobs["annotate"].composed.get("out"), "method.name": "steerlm"},
        "train": {"data.train": jobs["build"].composed.get("out")},
    }
    for stage, expected in values.items():
        assert {key: jobs[stage].composed.get(key) for key in expected} == expected
    assert jobs["build"].composed.get("attribute_schema.name") == "helpsteer" and jobs["annotate"].ranked
    assert jobs["build"].composed.get("attribute_schema.steered") == ["complexity", "verbosity"]
    assert (jobs["annotate"].nodes, jobs["annotate"].processes_per_node) == (2, 8)
    rater = tmp_path / "rater"
    local = launch_config(*settings, f"annotate.checkpoint={rater}", *DATA, *PLACES, stages=["annotate"])
    found = find_faults(list(jobs_of(local)[1].values()), jobs_of(local)[0])
    assert any(f"stage annotate: checkpoint={rater} is not there" in fault for fault in found)
