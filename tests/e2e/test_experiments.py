"""Experiments of the miniature as a user starts them: two and four processes, from the base that comes with the package."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from nemo_mm_align.core.run_files import DONE_FILE, FACTS_FILE, METRICS_FILE, read_metrics
from tests.distributed import REPOSITORY, free_port
from tests.golden.worker import run_scripts
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.e2e, pytest.mark.parallel]

STEPS = 2
RECIPES = ("sft", "rejection", "steerlm", "dpo")
ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 160, 30), "yellow": (230, 220, 40)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Questions about one colour, in the miniature's words."""
    folder, source = tmp_path_factory.mktemp("data"), random.Random(0)
    lines: dict[str, list[str]] = {"sft": [], "steerlm": [], "dpo": []}
    for index in range(20):
        right, wrong = source.sample(sorted(COLOURS), 2)
        Image.new("RGB", (64, 64), COLOURS[right]).save(folder / f"{index}.png")
        question = {"role": "user", "content": "<image>\nwhat color is the image ?"}
        answer = {"role": "assistant", "content": f"the image is {right} ."}
        record = {"id": f"r{index}", "images": [f"{index}.png"], "turns": [question]}
        pair = {"chosen": answer["content"], "rejected": f"it is {wrong} ."}
        lines["dpo"].append(json.dumps(record | pair))
        record["turns"] = [question, answer]
        lines["sft"].append(json.dumps(record))
        lines["steerlm"].append(json.dumps(record | {"attributes": {name: source.randrange(5) for name in ATTRIBUTES}}))
    for recipe, texts in lines.items():
        (folder / f"{recipe}.jsonl").write_text("\n".join(texts) + "\n")
    files = {recipe: folder / f"{recipe}.jsonl" for recipe in lines}
    return files | {"rejection": files["sft"]}  # the same records: turns that end with an answer


def words(recipe: str, processes: int, data: dict[str, Path], out: Path) -> list[str]:
    name = f"{recipe}_mini_1x{processes}"
    return [
        f"experiment={name}",
        f"data.train={data[recipe]}",
        f"exp_manager.exp_dir={out}",
        f"trainer.max_steps={STEPS}",
        "health.image_probe=2",
    ]


@pytest.fixture(scope="module", params=[2, 4])
def trained(
    request: pytest.FixtureRequest, data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, Path]:
    """Number of processes, and the folder of what so many have trained one after the other, the first as a user starts it."""
    processes, out = request.param, tmp_path_factory.mktemp(f"runs_{request.param}")
    first, *others = RECIPES
    torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", f"--master-port={free_port()}"]
    command = [sys.executable, *torchrun, "scripts/train.py", *words(first, processes, data, out)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    run_scripts(out, [("train.py", words(recipe, processes, data, out)) for recipe in others], processes)
    return processes, out


@pytest.mark.parametrize("recipe", RECIPES)
def test_small_experiment_runs(recipe: str, trained: tuple[int, Path]) -> None:
    processes, out = trained
    name = f"{recipe}_mini_1x{processes}"
    steps = read_metrics(out / name / METRICS_FILE)
    assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
    assert all(0 < step["loss"] < 10 for step in steps)
    facts = json.loads((out / name / FACTS_FILE).read_text())
    layout = facts["layout"]
    assert (layout["tensor_model_parallel_size"], layout["sequence_parallel"]) == (2, True)
    assert (layout["pipeline_model_parallel_size"], layout["data_parallel_size"]) == (processes // 2, 1)
    assert facts["global_batch_size"] == 32 and facts["method"] == recipe
    assert (out / name / DONE_FILE).is_file()
