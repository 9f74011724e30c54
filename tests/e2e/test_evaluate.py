import json
import random
import subprocess
import sys

import pytest

from nemo_mm_align.miniature.sources.charts import chart_question, draw_chart, draw_scene
from nemo_mm_align.miniature.truth import truth_of
from nemo_mm_align.schema.records import Candidate, CandidateSet, Prompt, Turn, write_records


@pytest.fixture
def held_out(tmp_path):
    """Twelve chart questions with their images."""
    generator = random.Random(0)
    prompts = []
    for number in range(12):
        scene = draw_scene(generator)
        text, truth = chart_question(generator, scene, "heldout", absent_share=0.5)
        draw_chart(scene).save(tmp_path / f"{number}.png")
        turns = (Turn(role="user", content=f"<image>\n{text}"),)
        metadata = {"truth": truth.model_dump()}
        prompts.append(Prompt(id=f"p{number}", images=(f"{number}.png",), turns=turns, metadata=metadata))
    write_records(tmp_path / "heldout.jsonl", prompts)
    return prompts


def write_answers(path, prompts, text_of):
    write_records(path, [CandidateSet(prompt_id=p.id, candidates=(Candidate(text=text_of(p)),)) for p in prompts])


def run(repository, folder, *arguments):
    command = [sys.executable, repository / "scripts" / "evaluate.py", "task=miniature", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.e2e
def test_evaluate_judges_by_the_oracle(repository, tmp_path, held_out):
    write_answers(tmp_path / "base.jsonl", held_out, lambda prompt: "yes")
    write_answers(tmp_path / "dpo.jsonl", held_out, lambda prompt: truth_of(prompt).expected)
    overrides = ("prompts=heldout.jsonl", "answers={base: base.jsonl, dpo: dpo.jsonl}", "out=out")
    done = run(repository, tmp_path, *overrides)
    assert done.returncode == 0, done.stderr
    methods = json.loads((tmp_path / "out" / "results.json").read_text())["methods"]
    dpo, base = (methods[name]["measurements"] for name in ("dpo", "base"))
    assert dpo["correctness"]["value"] == 1 > base["correctness"]["value"]
    assert dpo["hallucination"]["value"] == 0 < base["hallucination"]["value"]
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["out"]  # Hydra leaves nothing behind


@pytest.mark.e2e
def test_wrong_command_lines_are_explained(repository, tmp_path, held_out):
    missing = run(repository, tmp_path, "prompts=heldout.jsonl", "out=out")
    assert missing.returncode == 2 and "nothing to evaluate; give answers" in missing.stderr
    absent = run(repository, tmp_path, "prompts=none.jsonl", "answers={base: base.jsonl}", "out=out")
    assert (absent.returncode, absent.stderr.split(" Give")[0]) == (2, "error: none.jsonl: no such file.")
    both = run(repository, tmp_path, "tasks={miniature: {}}", "answers={base: base.jsonl}", "out=out")
    assert both.returncode == 2 and "task=miniature: tasks={...} takes the place of task" in both.stderr
    unknown = run(repository, tmp_path, "prompt=heldout.jsonl")
    assert unknown.returncode != 0 and "prompt" in unknown.stderr and "Traceback" not in unknown.stderr
