"""Candidates rated by a model with a head: scripts/annotate.py, and the same model as a judge of scripts/label.py."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from PIL import Image

from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.repository import CONF
from nemo_mm_align.inference.annotate import annotate
from nemo_mm_align.inference.annotate_settings import AnnotateSettings
from nemo_mm_align.inference.derangement import derange
from nemo_mm_align.inference.loading import OpenedModel
from nemo_mm_align.inference.rating import Rater
from nemo_mm_align.labeling.stage import label_from_config
from nemo_mm_align.model.config import ParallelConfig
from nemo_mm_align.parallel import runtime
from nemo_mm_align.parallel.stopping import EXIT_CODE, StopRequest
from nemo_mm_align.schema.records import Annotation, read_records
from tests.attribute_checkpoints import LORA, attribute_checkpoint, helpsteer
from tests.distributed import REPOSITORY
from tests.golden.worker import run_scripts
from tests.parallel.annotate_kill_worker import LINES
from tests.tiny import tiny_llava

pytestmark = pytest.mark.parallel

COLOURS = ("red", "blue", "green", "white", "black")
QUESTIONS = [
    ("Is there a triangle?", ()),
    ("<image>\nIs there a red circle?", ("red",)),
    ("<image>\n<image>\nblue or red?", ("blue", "red")),
    ("<image>\na tallest bar?", ("green",)),
    ("<image>\nblue?", ("white",)),
    ("the tallest bar shows five", ()),
    ("<image>\nand\n<image>\nno?", ("green", "black")),
    ("<image>\nfive?", ("black",)),
]
ANSWERS = ("yes", "no there is no triangle", "a red circle and blue square", "five")


@contextmanager
def rated_folder(folder: Path) -> Iterator[Path]:
    """A checkpoint with a head, prompts about pictures, and between one and four candidates for each; a process group is up."""
    tiny_llava(folder / "base")
    for colour in COLOURS:
        Image.new("RGB", (30, 40), colour).save(folder / f"{colour}.png")
    write_inputs(folder, QUESTIONS)
    runtime.initialize(ParallelConfig(), seed=1)
    attribute_checkpoint(folder / "run", folder / "base", "last", LORA)
    yield folder
    runtime.shutdown()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with rated_folder(tmp_path_factory.mktemp("annotate")) as folder:
        yield folder


def write_inputs(folder: Path, questions: list[tuple[str, tuple[str, ...]]]) -> None:
    prompts, candidates = [], []
    for number, (question, colours) in enumerate(questions):
        images = [f"{colour}.png" for colour in colours]
        prompts.append({"id": f"p{number}", "images": images, "turns": [{"role": "user", "content": question}]})
        texts = [{"text": text} for text in ANSWERS[: 1 + number % 4]]
        candidates.append({"prompt_id": f"p{number}", "candidates": texts})
    (folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in prompts))
    (folder / "candidates.jsonl").write_text("".join(json.dumps(line) + "\n" for line in candidates))


def words(place: Path, out: str | Path, *more: str, checkpoint: str = "run") -> list[str]:
    files = [f"prompts={place}/prompts.jsonl", f"candidates={place}/candidates.jsonl", f"out={place / out}"]
    return [f"checkpoint={place / checkpoint}", *files, "values=real", *more]


def composed(name: str, given: list[str]) -> dict[str, Any]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base=None):
        values: dict[str, Any] = OmegaConf.to_container(compose(name, given), resolve=True)  # type: ignore[assignment]
    return values


def run(place: Path, out: str | Path, *more: str, **options: str) -> list[Annotation]:
    annotate(read(AnnotateSettings, composed("annotate", words(place, out, *more, **options))))
    return list(read_records(place / out, Annotation))


@pytest.fixture(scope="module")
def one(place: Path) -> list[Annotation]:
    return run(place, "one.jsonl", "max_batch_tokens=150")


def numbers(records: list[Annotation]) -> torch.Tensor:
    told = [candidate.predicted for record in records for candidate in record.candidates]
    return torch.tensor([list(values.values()) for values in told if values is not None])


@pytest.fixture(scope="module")
def theirs(place: Path) -> Any:
    """What transformers makes of the exported model: (question, colours, answer) -> outputs."""
    from transformers import AutoModelForSequenceClassification, AutoProcessor

    run_scripts(place, [("convert.py", ["direction=export", f"source={place}/run", f"out={place}/exported"])])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(place / "modules"))
        model = AutoModelForSequenceClassification.from_pretrained(place / "exported", trust_remote_code=True)
    model.eval()
    processor = AutoProcessor.from_pretrained(place / "exported")

    def rate(question: str, colours: tuple[str, ...], answer: str) -> torch.Tensor:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        images = [Image.open(place / f"{colour}.png") for colour in colours]
        text = processor.apply_chat_template(turns)
        given = processor(text=text, images=images or None, add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            return model(**given).logits[0]

    return rate


def expected(theirs: Any, shown: list[tuple[str, ...]]) -> torch.Tensor:
    rows = [
        theirs(question, shown[number], answer)
        for number, (question, _) in enumerate(QUESTIONS)
        for answer in ANSWERS[: 1 + number % 4]
    ]
    return torch.stack(rows).clamp(0, 4)


def test_ratings_are_what_transformers_computes_within_the_range(
    one: list[Annotation], theirs: Any, place: Path
) -> None:
    wanted = expected(theirs, [colours for _, colours in QUESTIONS])
    assert (wanted == 0).any() and (wanted == 4).any(), "some outputs lie beyond the range"
    assert (numbers(one) - wanted).abs().max() <= 1e-4
    schema = helpsteer()
    for record in one:
        assert (record.judge, record.schema_fingerprint) == ("attribute_model", schema.fingerprint)
        for candidate in record.candidates:
            assert candidate.predicted is not None
            assert candidate.ratings == {name: round(value) for name, value in candidate.predicted.items()}
            schema.check(candidate.ratings)
    assert [record.prompt.id for record in one] == [f"p{number}" for number in range(len(QUESTIONS))]
    assert [candidate.text for candidate in one[3].candidates] == list(ANSWERS)
    again = run(place, "exported.jsonl", checkpoint="exported")
    assert (numbers(again) - numbers(one)).abs().max() <= 2e-4, "each is rounded to four decimals"
    assert {record.configuration for record in again}.isdisjoint(record.configuration for record in one)
    assert one[1].prompt.images == ("red.png",)


def test_whole_numbers_alone_are_the_default(place: Path, one: list[Annotation]) -> None:
    records = run(place, "rounded.jsonl", "values=rounded")
    assert "predicted" not in (place / "rounded.jsonl").read_text()
    found, wanted = ([[each.ratings for each in record.candidates] for record in set_] for set_ in (records, one))
    assert found == wanted and records[0].configuration == one[0].configuration


def test_killed_and_resumed_the_file_equals_an_undisturbed_run(place: Path, one: list[Annotation]) -> None:
    few = "max_batch_tokens=150"
    worker = [
        sys.executable,
        str(REPOSITORY / "tests/parallel/annotate_kill_worker.py"),
        *words(place, "killed.jsonl", few),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(worker, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = (place / "killed.jsonl").read_bytes()
    assert left.count(b"\n") == LINES and not left.endswith(b"\n")
    assert run(place, "killed.jsonl", few) == one
    assert (place / "killed.jsonl").read_bytes() == (place / "one.jsonl").read_bytes()
    assert set(left.splitlines()[:LINES]) <= set((place / "killed.jsonl").read_bytes().splitlines())


def test_asked_to_stop_it_ends_and_goes_on(place: Path, one: list[Annotation]) -> None:
    settings = read(AnnotateSettings, composed("annotate", words(place, "stopped.jsonl", "max_batch_tokens=150")))
    stop, batches = StopRequest(), []
    stream = Rater.stream

    def second(self: Rater, *arguments: Any) -> Iterator[Any]:
        for batch in stream(self, *arguments):
            batches.append(batch)
            if len(batches) == 2:
                stop.request()
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rater, "stream", second)
        with pytest.raises(SystemExit) as ended:
            annotate(settings, stop)
    assert ended.value.code == EXIT_CODE
    left = (place / "stopped.jsonl").read_bytes().count(b"\n")
    assert left == sum(map(len, batches)) and len(batches) == 2 and left < len(QUESTIONS)
    assert run(place, "stopped.jsonl", "max_batch_tokens=150") == one


def test_every_layout_rates_alike(place: Path, one: list[Annotation]) -> None:
    layouts = {"dp2": [], "tp2": ["tensor_model_parallel_size=2"], "pp2": ["pipeline_model_parallel_size=2"]}
    run_scripts(place, [("annotate.py", words(place, f"{name}.jsonl", *more)) for name, more in layouts.items()], 2)
    for name in layouts:
        records = list(read_records(place / f"{name}.jsonl", Annotation))
        assert (numbers(records) - numbers(one)).abs().max() <= 2e-4
        assert [record.request_key for record in records] == [record.request_key for record in one]


def test_other_pictures_are_shown_where_that_is_asked_for(place: Path, one: list[Annotation], theirs: Any) -> None:
    records = run(place, "shuffled.jsonl", "shuffle_images=true", "seed=5")
    hashes = [json.loads(line)["images"] for line in (place / "one.provenance.jsonl").read_text().splitlines()]
    assert sorted(map(len, hashes)) == sorted(len(colours) for _, colours in QUESTIONS)
    own = [tuple(_sha(place / f"{colour}.png") for colour in colours) for _, colours in QUESTIONS]
    others = [QUESTIONS[other][1] for other in derange(own, 5)]
    assert (numbers(records) - expected(theirs, others)).abs().max() <= 1e-4
    assert records[0].judge == "attribute_model:shuffled_images" and records[1].prompt.images == one[1].prompt.images
    assert records[0].candidates == one[0].candidates, "a prompt without pictures is as it was"
    assert records[1].candidates != one[1].candidates
    assert not {record.request_key for record in records} & {record.request_key for record in one}
    with pytest.raises(UserError, match=r"shuffled.jsonl: holds answers made with other settings: .*shuffled_images 5"):
        run(place, "shuffled.jsonl")


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenedModel, "rater", lambda *_: pytest.fail("the model was loaded"))


def test_nothing_is_rated_twice_and_other_inputs_are_refused(
    place: Path, one: list[Annotation], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    no_model(monkeypatch)
    before = (place / "one.jsonl").read_bytes()
    assert run(place, "one.jsonl") == one and (place / "one.jsonl").read_bytes() == before
    with pytest.raises(UserError, match=r"values real \(now rounded\)"):
        run(place, "one.jsonl", "values=rounded")
    attribute_checkpoint(tmp_path / "run", place / "base", "mean", LORA)
    with pytest.raises(UserError, match=r"settings.head.pooling last \(now mean\)"):
        run(place, "one.jsonl", checkpoint=str(tmp_path / "run"))
    (tmp_path / "candidates.jsonl").write_text((place / "candidates.jsonl").read_text().replace("five", "red"))
    with pytest.raises(UserError, match=r"candidates [0-9a-f]{16} \(now [0-9a-f]{16}\)"):
        run(place, "one.jsonl", f"candidates={tmp_path}/candidates.jsonl")
    lines = before.decode().splitlines(keepends=True)
    edited = place / "edited.jsonl"
    for name in ("settings.json", "provenance.jsonl"):
        (place / f"edited.{name}").write_bytes((place / f"one.{name}").read_bytes())
    edited.write_text(lines[0].replace('"text":"yes"', '"text":"no"') + "".join(lines[1:]))
    with pytest.raises(UserError, match=r"edited.jsonl:1: this answer was changed"):
        run(place, "edited.jsonl")


@pytest.mark.parametrize(
    ("file", "old", "new", "fault"),
    [
        ("candidates", '"p3"', '"p33"', r"candidates of prompt 'p33', which .*prompts.jsonl lacks"),
        ("prompts", "red.png", "gone.png", r"prompts.jsonl:2: .*gone.png: no such"),
        ("candidates", '"yes"', json.dumps("yes " * 600), r"prompt 'p0', candidate 1: \d+ tokens, but the model has 512"),
        ("candidates", '"no there', '"</s> there', r"prompt 'p1', candidate 2: .*'</s>', which is a special token"),
    ],
)  # fmt: skip
def test_faults_are_named_before_the_model_is_loaded(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, old: str, new: str, fault: str
) -> None:
    no_model(monkeypatch)
    for name in ("prompts", "candidates"):
        text = (place / f"{name}.jsonl").read_text()
        (tmp_path / f"{name}.jsonl").write_text(text.replace(old, new) if name == file else text)
    for colour in COLOURS:
        os.link(place / f"{colour}.png", tmp_path / f"{colour}.png")
    given = [f"{name}={tmp_path}/{name}.jsonl" for name in ("prompts", "candidates")]
    with pytest.raises(UserError, match=fault):
        run(place, tmp_path / "out.jsonl", *given)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_model_without_a_head_rates_nothing(place: Path) -> None:
    with pytest.raises(UserError, match="has no head that rates answers"):
        run(place, "none.jsonl", checkpoint="base")


def label(place: Path, out: str, *more: str) -> Any:
    given = words(place, out)[1:-1]
    judge = ["judge=attribute_model", f"judge.checkpoint={place}/run", "reference_answer=false"]
    return label_from_config(composed("label", [*judge, *given, *more]))


def test_as_a_judge_it_gives_the_same_ratings_and_is_asked_once(
    place: Path, one: list[Annotation], monkeypatch: pytest.MonkeyPatch
) -> None:
    estimate = label(place, "labelled.jsonl", "dry_run=true")
    assert not (place / "labelled.jsonl").exists() and estimate is not None
    label(place, "labelled.jsonl")
    records = list(read_records(place / "labelled.jsonl", Annotation))
    assert [record.request_key for record in records] == [record.request_key for record in one]
    found, wanted = ([[each.ratings for each in record.candidates] for record in set_] for set_ in (records, one))
    assert found == wanted
    assert {record.configuration for record in records} == {record.configuration for record in one}
    attempts = [json.loads(line) for line in (place / "labelled.ledger.jsonl").read_text().splitlines()[1:]]
    for attempt in attempts:  # the ledger holds what was told as well, in the order shown
        (record,) = (record for record in one if record.prompt.id == attempt["prompt_id"])
        for told, index in zip(json.loads(attempt["raw"]), attempt["order"], strict=True):
            assert told == pytest.approx(record.candidates[index].predicted, abs=2e-4)
    assert len(attempts) == len(QUESTIONS)
    no_model(monkeypatch)
    assert label(place, "labelled.jsonl").tally.calls == 0


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (["runner.processes=2"], "runner.processes=2: judge=attribute_model holds its model in this process"),
        (["batch.write=@/requests.jsonl"], "batch: attribute_model knows no batches"),
        (["batch.read=[@/prompts.jsonl]"], "batch: attribute_model knows no batches"),
        (["attribute_schema=vision_hallucination"], "tells the attributes of the schema helpsteer"),
        (["judge.checkpoint=@/base"], "has no head that rates answers"),
        (["judge.checkpoint=@/nowhere"], "nowhere: no such folder"),
        (["judge.precision=fp8_delayed"], "FP8 is for training"),
    ],
)
def test_what_it_cannot_do_as_a_judge_is_named(place: Path, given: list[str], fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        label(place, "refused.jsonl", *(word.replace("@", str(place)) for word in given))
    assert not (place / "refused.jsonl").exists()
