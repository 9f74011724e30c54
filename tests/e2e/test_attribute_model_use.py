"""From annotations to an attribute model, to its ratings of candidates, to a training set and a folder for transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemo_mm_align.schema.examples import PreferenceExample
from nemo_mm_align.schema.records import Annotation, read_records
from tests.attribute_checkpoints import helpsteer
from tests.golden.runs import small_run
from tests.golden.worker import run_scripts
from tests.parallel.test_annotate import COLOURS, QUESTIONS, write_inputs
from tests.tiny import tiny_llava

pytestmark = [pytest.mark.e2e, pytest.mark.parallel]

NAMES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def judged(folder: Path) -> None:
    """Annotations of some judge: longer answers are more verbose and more helpful."""
    prompts = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    sets = [json.loads(line) for line in (folder / "candidates.jsonl").read_text().splitlines()]
    lines = []
    for prompt, candidates in zip(prompts, sets, strict=True):
        rated = []
        for candidate in candidates["candidates"]:
            score = min(len(candidate["text"].split()), 4)
            rated.append({**candidate, "ratings": dict.fromkeys(NAMES, score)})
        about = {"judge": "somebody", "schema_name": "helpsteer", "schema_fingerprint": helpsteer().fingerprint}
        lines.append(json.dumps({"prompt": prompt, "candidates": rated, **about}))
    (folder / "judged.jsonl").write_text("\n".join(lines) + "\n")


def test_trained_on_a_judges_ratings_it_rates_candidates_that_a_builder_takes(tmp_path: Path) -> None:
    from PIL import Image

    tiny_llava(tmp_path / "base")
    for colour in COLOURS:
        Image.new("RGB", (30, 40), colour).save(tmp_path / f"{colour}.png")
    write_inputs(tmp_path, QUESTIONS)
    judged(tmp_path)
    built, run, out = tmp_path / "rated.jsonl", tmp_path / "rater", tmp_path / "annotations.jsonl"
    training = small_run("rater", tmp_path / "base", built, tmp_path, 12)
    inputs = [f"prompts={tmp_path}/prompts.jsonl", f"candidates={tmp_path}/candidates.jsonl"]
    said = run_scripts(
        tmp_path,
        [
            (
                "build.py",
                ["method=attribute_model", "method.holdout=0", f"annotations={tmp_path}/judged.jsonl", f"out={built}"],
            ),
            ("train.py", ["recipe=attribute_model", *training, "recipe.epochs=99", "model.lora=null"]),
            ("annotate.py", [f"checkpoint={run}", *inputs, f"out={out}", "values=real"]),
            ("build.py", ["method=all_pairs", f"annotations={out}", f"out={tmp_path}/pairs.jsonl"]),
            ("convert.py", ["direction=export", f"source={run}", f"out={tmp_path}/exported"]),
        ],
    )
    records = list(read_records(out, Annotation))
    assert len(records) == len(QUESTIONS) and {record.judge for record in records} == {"attribute_model"}
    candidates = [candidate for record in records for candidate in record.candidates]
    told = {candidate.text: candidate.predicted["verbosity"] for candidate in candidates if candidate.predicted}
    assert told["yes"] < told["no there is no triangle"], "it has learned what the judge said"
    pairs = list(read_records(tmp_path / "pairs.jsonl", PreferenceExample))
    longer = sum(len(pair.chosen) > len(pair.rejected) for pair in pairs)
    assert longer > 0.7 * len(pairs) > 2, "in a few steps it has learned that the judge likes length"
    config = json.loads((tmp_path / "exported/config.json").read_text())
    assert list(config["id2label"].values()) == list(NAMES) and config["attribute_pooling"] == "last", said[-2000:]
