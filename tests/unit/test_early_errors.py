"""Help, and what is wrong with a path or setting, come before anything slow is imported: here the slow packages are absent."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemo_mm_align.core.repository import ROOT
from tests.checkpoint_files import metadata_of, write_checkpoint
from tests.odd_values import write_rater

pytestmark = pytest.mark.slow

MODEL = ROOT / "nemo_mm_align/miniature/base"
TRAIN = ["recipe=sft", "model=mini", f"model.hf_path={MODEL}", "data.train=@data", "exp_manager.exp_dir=@here/results",
         "model.max_length=256", "model.global_batch_size=2"]  # fmt: skip
ANSWER = [f"checkpoint={MODEL}", "template=vicuna_v1", "prompts=@prompts", "out=@here/out.jsonl"]
LABEL = ["judge=gemini", "prompts=@prompts", "candidates=@data", "out=@here/out.jsonl"]
RATE = ["checkpoint=@rater", "prompts=@prompts", "candidates=@data", "out=@here/out.jsonl"]
BUILD = ["method=preference", "annotations=@prompts", "out=@here/out.jsonl"]
EVALUATE = ["prompts=@prompts", "answers={base: @prompts}", "out=@here/report"]
CONVERT = ["direction=export", f"source={MODEL}", "template=vicuna_v1", "out=@here/exported"]
SERVE = [f"checkpoint={MODEL}", "port=0"]
CHAT = [f"checkpoint={MODEL}"]

CASES = {
    "train": (TRAIN, [
        ("data.train=/nowhere.jsonl", "/nowhere.jsonl: no"),
        ("data.train=./not/there/at/all", "./not/there/at/all: no such file or folder, and not a dataset's name"),
        ("model.hf_path=/nowhere", "/nowhere: no such folder."),
        ("model.hf_path=@here", "neither a Hugging Face model (no config.json) nor a checkpoint"),
        ("model.checkpoint=/nowhere", "set exactly one of model.hf_path"),
        ("exp_manager.exp_dir=@file", "@file/sft: its folder cannot be made"),
        ("exp_manager.exp_dir=/proc/here", "/proc/here/sft: its folder cannot be made"),
        ("exp_manager.exp_dir=/proc/sys", "/proc/sys/sft: its folder cannot be made"),
        ("model.optim.lr=-1", "model.optim.lr=-1: must be at least 0"),
        ("model.optim.lr=fast", "model.optim.lr='fast'"),
        ("model.tensor_model_parallel_size=2", "1 ranks cannot hold whole replicas"),
        ("model.max_length=99999", "the model has 512 positions"),
        ("checkpoint.keep=0", "checkpoint.keep=0: must be at least 1"),
        ("recipe=spo", "there is no such option"),
        ("recipe.epoch=3", "no key recipe.epoch. Did you mean epochs?"),
        ("validation.every=5", "validation.every: read by nothing, since data.validation is null. Give data.validation=FILE"),
        ("guards.every=5", "guards.every: read by nothing, since guards.prompts and guards.task are null. Give guards.prompts="),
        ("exp_manager.exp_dir=@damaged name=run", "run/checkpoints/step_00000001: this checkpoint is damaged"),
    ]),
    "generate": (ANSWER, [
        ("checkpoint=/nowhere", "/nowhere: no such folder."),
        ("checkpoint=@damaged/run", "step_00000001: this checkpoint is damaged (state/common.pt is missing)"),
        ("prompts=/nowhere.jsonl", "/nowhere.jsonl: no"),
        ("out=@here", "a folder stands where a file is to be written"),
        ("out=@fifo", "@fifo: a FIFO (named pipe) stands where a file"),
        ("out=@file/a.jsonl", "@file/a.jsonl: its folder cannot be made"),
        ("out=null", "or tasks={NAME: {...}} and out=FOLDER, or question=... alone"),
        ("temperature=-1", "temperature=-1: must be at least 0"),
        ("max_batch_tokens=0", "max_batch_tokens"),
        ("precision=fp8_delayed", "FP8 is for training"),
        ("attributes.verbosty=0", "verbosty"),
        ("tensor_model_parallel_size=2", "1 ranks cannot hold whole replicas"),
        ("base=/nowhere", "base=/nowhere: no such folder."),
        ("prompts=null out=null question=what image=/nowhere.png", "/nowhere.png"),
        ("prompts=null out=null question=what image=''", "image: holds an empty path; [] is none"),
    ]),
    "sample": (ANSWER, [("checkpoint=/nowhere", "/nowhere: no such folder."), ("out=@fifo", "a FIFO (named"),
                        ("num_samples=0", "num_samples=0: must be at least 1")]),
    "annotate": (RATE, [("checkpoint=/nowhere", "/nowhere: no such folder."), ("out=@fifo", "a FIFO (named"),
                        (f"checkpoint={MODEL}", "has no head that rates answers. Give a model that was trained"),
                        ("candidates=/nowhere.jsonl", "/nowhere.jsonl: no such file."), ("values=whole", "rounded, real"),
                        ("out=@prompts", "prompts, candidates and out must be different files"),
                        ("shuffle_images=1", "shuffle_images=1: must be true or false")]),
    "label": (LABEL, [("prompts=/nowhere.jsonl", "/nowhere.jsonl"), ("out=@fifo", "a FIFO (named"),
                      ("out=@file/a.jsonl", "@file/a.jsonl: its folder cannot be made"), ("runner.concurrency=0", "concurrency"),
                      ("judge=gemni", "there is no such option"),
                      (f"judge=attribute_model judge.checkpoint={MODEL}", "has no head that rates answers"),
                      ("judge=attribute_model judge.checkpoint=@rater runner.processes=2", "runner.processes=2: judge="),
                      ("judge=attribute_model judge.checkpoint=@rater attribute_schema=vision_hallucination", "tells the attr")]),
    "build": (BUILD, [("annotations=/nowhere.jsonl", "/nowhere.jsonl: no"), ("out=@fifo", "a FIFO (named"),
                      ("out=/proc/here/a.jsonl", "/proc/here/a.jsonl: its folder cannot be made"),
                      ("method=best", "no such option")]),
    "evaluate": (EVALUATE, [("prompts=/nowhere.jsonl", "/nowhere.jsonl: no"), ("out=@fifo", "a FIFO (named"),
                            ("out=@file", "@file: a file stands where a folder is to be made")]),
    "convert": (CONVERT, [("source=/nowhere", "/nowhere: no such folder."), ("direction=away", "import, export, compose"),
                          ("out=@fifo", "@fifo: exists already"), ("out=@link", "@link: exists already"),
                          ("dtype=fp12", "fp32, bf16, fp16"),
                          ("out=@file/a", "@file/a: no file can be written in"), ("adapters=apart", "has no adapters"),
                          ("direction=compose vision=/nowhere", "vision=/nowhere: no such file or folder.")]),
    "estimate": (["experiment=dpo_llava15_13b_2x8", "gpu=h100_80gb"], [("gpu=h1000", "h1000"),
                  ("document=@fifo", "a FIFO (named")]),
    "doctor": ([], [("stages=[trane]", "trane"), ("json=@fifo", "a FIFO (named")]),
    "agreement": (["annotations=@prompts"], [("annotations=/nowhere.jsonl", "/nowhere.jsonl: no such file")]),
    "benchmark": (["parts=[]"], [("out=@fifo", "a FIFO (named")]),
    "serve": (SERVE, [
        ("checkpoint=/nowhere", "/nowhere: no such folder."),
        ("checkpoint=@here", "neither a Hugging Face model (no config.json) nor a checkpoint"),
        ("checkpoint=@damaged/run", "step_00000001: this checkpoint is damaged (state/common.pt is missing)"),
        ("base=/nowhere", "base=/nowhere: no such folder."),
        ("attribute_schema=helpsteer aliases={short:{verbosty:0}}", "aliases.short: unknown attribute 'verbosty'. Did"),
        ("attribute_schema=helpsteer aliases={short:{verbosity:9}}", "verbosity=9 is outside 0 to 4"),
        ("attribute_schema=helpsteer attributes.verbosty=0", "attributes: unknown attribute 'verbosty'. Did you mean verbosity"),
        ("aliases={short:{verbosity:0}}", "aliases.short: this model was trained without attributes"),
        ("name=mine aliases={mine:null}", "aliases: mine is the model's own name"),
        ("aliases={a@b:null}", "'a@b' holds '@'; a model's name has no white space, comma or @, behind which stands"),
        ("name=a@b", "name: 'a@b' holds '@'; a model's name has no white space, comma or @"),
        ("port=@taken", "port=@taken: Address already in use. Give a port that nobody has (port=0 chooses one)"),
        ("port=70000", "port=70000"),
        ("host=no.such.host.invalid", "host=no.such.host.invalid port=0: Name or service not known. Give a port"),
        ("api_key_file=/nowhere", "api_key_file=/nowhere: cannot be read (FileNotFoundError). Give another file."),
        ("api_key_file=@file", "api_key_file=@file: holds no key. Put one there"),
        ("api_key_variable=NO_KEY_OF_THE_TESTS", "api_key_variable=NO_KEY_OF_THE_TESTS: holds no key."),
        ("scorer=orakel", "scorer='orakel': must be oracle, or a section"),
        ("scorer={url:ftp://x/v1,model:m}", "scorer.url='ftp://x/v1' is no address; write for example"),
        ("scorer={url:http://127.0.0.1:9/v1,modell:m}", "no key scorer.modell. Did you mean model?"),
        ("scorer={url:http://127.0.0.1:9/v1,model:m,api_key_env:NO_KEY_OF_THE_TESTS}", "scorer.api_key_env=NO_KEY_OF_THE_TESTS:"),
        ("checkpoint=@rater aliases={short:{verbosity:0}}", "rates answers and gives none; attributes, aliases and scorer are"),
        ("allowed_origins=[example.org]", "an origin is http(s)://HOST"),
        ("allowed_hosts=[example.org:80]", "allowed_hosts: holds 'example.org:80'; give a name as it stands in addresses"),
        ("limits.max_tokens=9", "max_new_tokens=512 is above limits.max_tokens=9"),
        ("length=99999", "length=99999: the model has 512 positions. Give null for all of them, or fewer."),
        ("slots=0", "slots=0: must be at least 1"),
        ("templat=vicuna_v1", "no key templat. Did you mean template?"),
    ]),
    "chat": (CHAT, [
        ("checkpoint=/nowhere", "/nowhere: no such folder."),
        ("checkpoint=@here", "neither a Hugging Face model (no config.json) nor a checkpoint"),
        ("checkpoint=@damaged/run", "step_00000001: this checkpoint is damaged (state/common.pt is missing)"),
        ("checkpoint=@rater", "it cannot be asked for answers. Give a model that was trained to answer"),
        ("attribute_schema=helpsteer attributes.verbosty=0", "attributes: unknown attribute 'verbosty'. Did you mean verbosity"),
        ("attributes.verbosity=0", "attributes: this model was trained without attributes"),
        ("template=vicuna", "there is no such option"),
        ("temperature=-1", "temperature=-1: must be at least 0"),
        ("length=99999", "length=99999: the model has 512 positions"),
        ("tensor_model_parallel_size=2", "1 ranks cannot hold whole replicas"),
    ]),
    "miniature": (["out=@here/mini"], [("out=@file", "@file: a file stands where a folder is to be made")]),
}  # fmt: skip


@pytest.fixture(scope="module")
def taken() -> Iterator[str]:
    """A port that somebody has."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield str(server.getsockname()[1])


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, taken: str) -> dict[str, Path | str]:
    here = tmp_path_factory.mktemp("early")
    found = {
        "@here": here,
        "@taken": taken,
        "@data": here / "data.jsonl",
        "@prompts": here / "prompts.jsonl",
        "@file": here / "file",
    }
    found |= {"@fifo": here / "fifo", "@link": here / "link", "@damaged": here / "damaged"}
    turns = '"turns": [{"role": "user", "content": "a"}'
    found["@data"].write_text(f'{{"id": "1", {turns}, {{"role": "assistant", "content": "b"}}]}}\n')
    found["@prompts"].write_text(f'{{"id": "1", {turns}]}}\n')
    found["@file"].write_text("")
    os.mkfifo(found["@fifo"])
    found["@rater"] = write_rater(here / "rater")
    found["@link"].symlink_to(here / "behind")
    folder = write_checkpoint(found["@damaged"] / "run/checkpoints", metadata_of(1))
    (folder / "state/common.pt").unlink()
    return found


def real(text: str, places: dict[str, Path | str]) -> str:
    for name, path in places.items():
        text = text.replace(name, str(path))
    return text


def command_lines(command: str, places: dict[str, Path | str]) -> list[list[str]]:
    """The usual words of a command, with those of each case in their places."""
    usual, cases = CASES[command]
    lines = []
    for words, _ in cases:
        keys = {word.partition("=")[0] for word in words.split()}
        kept = [word for word in (*usual, *words.split()) if word in words or word.partition("=")[0] not in keys]
        lines.append([real(word, places) for word in kept])
    return lines


@pytest.fixture(scope="module")
def outcomes(places: dict[str, Path | str]) -> dict[str, list[tuple[int, str]]]:
    """Exit code and output of every case of every command, after those of its help."""
    given = {
        str(path): [["--help"], *(command_lines(path.stem, places) if path.stem in CASES else [])]
        for path in sorted((ROOT / "scripts").glob("*.py"))
    }
    given[str(ROOT / "scripts/train.py")].append([real(word, places) for word in TRAIN])
    done = subprocess.run(
        [sys.executable, ROOT / "tests/early_worker.py", places["@here"]],
        env={**os.environ, "PYTHONPATH": str(ROOT), "GEMINI_API_KEY": "k" * 39}, cwd=places["@here"],
        input=json.dumps(given), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {Path(script).stem: found for script, found in json.loads(done.stdout).items()}


@pytest.mark.parametrize("command", CASES)
def test_a_mistake_is_named_without_them(
    outcomes: dict[str, list[tuple[int, str]]], places: dict[str, Path | str], command: str
) -> None:
    for (words, expected), (code, output) in zip(CASES[command][1], outcomes[command][1:], strict=command != "train"):
        assert code == 2 and output.count("error: ") == 1, f"{words}: exit code {code}\n{output}"
        assert real(expected, places) in output and "Traceback" not in output, f"{words}\n{output}"
    assert places["@fifo"].is_fifo() and places["@link"].is_symlink()


def test_help_needs_none_of_them(outcomes: dict[str, list[tuple[int, str]]]) -> None:
    for command, ((code, output), *_) in outcomes.items():
        assert code == 0 and "\nSettings with their defaults" in output, f"{command}\n{output}"


def test_a_training_says_what_it_will_do_before_them(
    outcomes: dict[str, list[tuple[int, str]]], places: dict[str, Path | str]
) -> None:
    _, output = outcomes["train"][-1]
    said, _, rest = output.partition("\n")
    assert (
        said.startswith(f"sft: trains adapters of {MODEL} (")
        and f") on {places['@data']}; 2 samples a step, 1 a m" in said
    )
    assert said.endswith(f"; tensor parallel 1, pipeline 1, data 1 on 1 rank; results in {places['@here']}/results/sft")
    assert "AssertionError: nemo was imported" in rest
