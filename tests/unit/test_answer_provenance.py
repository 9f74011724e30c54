"""An answer is about a picture: other pictures, settings and edited lines are noticed, files of earlier versions go on."""

import json
import logging
import shutil
from pathlib import Path

import pytest
from PIL import Image

from nemo_mm_align.core import file_state
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.inference.answer_file import AnswerFile
from nemo_mm_align.inference.pictures import Pictures
from nemo_mm_align.inference.requests import EncodedPrompt, Request
from nemo_mm_align.schema import image_hashes
from nemo_mm_align.schema.answer_provenance import CandidateOrigins, digest, provenance_path, read_provenance
from nemo_mm_align.schema.records import Candidate, CandidateSet, PlacedPrompt, Prompt, Turn, parse_line, prompt_kind

TURNS = (Turn(role="user", content="What?"),)
SETTINGS = {"seed": 1, "model": "m0", "tokenizer": "t0", "image_processor": "p0"}


def colour(path: Path, name: str) -> Path:
    Image.new("RGB", (4, 4), name).save(path)
    return path


@pytest.fixture
def requests(tmp_path: Path) -> list[Request]:
    """Three prompts: about one picture, two, none."""
    red, green = colour(tmp_path / "red.png", "red"), colour(tmp_path / "green.png", "green")
    pictures = {"one": (red,), "two": (green, red), "none": ()}
    return [
        Request(Prompt(id=name, turns=TURNS), None, EncodedPrompt(name, [1], paths)) for name, paths in pictures.items()
    ]


def answer(name: str, text: str = "yes") -> CandidateSet:
    return CandidateSet(prompt_id=name, candidates=(Candidate(text=text),), sampling={"seed": 1})


def opened(folder: Path, requests: list[Request], settings: dict = SETTINGS) -> AnswerFile:
    path = folder / "answers.jsonl"
    return AnswerFile(path, settings, Pictures(path, requests))


@pytest.fixture
def answers(tmp_path: Path, requests: list[Request]) -> Path:
    """A file with the answers to the first two prompts."""
    with opened(tmp_path, requests) as file:
        for name in ("one", "two"):
            file.append(answer(name))
    return tmp_path / "answers.jsonl"


def test_the_same_pictures_go_on_silently_wherever_they_come_from(tmp_path, answers, requests, caplog):
    red = tmp_path / "red.png"
    shutil.copy(red, tmp_path / "copy.png")
    (tmp_path / "copy.png").replace(red)
    with caplog.at_level(logging.WARNING), opened(tmp_path, requests) as file:
        assert {request.key in file.sets for request in requests[:2]} == {True}
        file.append(answer("none"))
        file.finish([request.key for request in requests])
    assert not caplog.records
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [line["prompt_id"] for line in lines] == ["one", "two", "none"]
    assert set(lines[0]) == {"prompt_id", "candidates", "sampling"}, "the answers' own format is what it was"
    assert [len(images) for images in read_provenance(answers).values()] == [1, 2, 0]


def test_a_picture_that_changed_under_its_path_is_named_with_the_prompts(tmp_path, answers, requests):
    colour(tmp_path / "green.png", "blue")
    with pytest.raises(
        UserError, match="(?s)1 faults.*'two' is about another picture: .*green.png.*remove these lines"
    ):
        opened(tmp_path, requests)
    before = answers.read_text().splitlines(keepends=True)
    answers.write_text(before[0])  # the remedy
    with opened(tmp_path, requests) as file:
        assert [request.key in file.sets for request in requests] == [True, False, False]
        file.append(answer("two"))
    with opened(tmp_path, requests) as file:
        assert len(file.sets) == 2


def test_a_picture_that_is_no_longer_there_takes_no_answer_away(tmp_path, answers, requests):
    (tmp_path / "red.png").unlink()
    with opened(tmp_path, requests) as file:
        assert len(file.sets) == 2


@pytest.mark.parametrize("change", [("yes", "no"), ('"one"', '"none"'), ('"seed":1', '"seed":2')])
def test_a_line_edited_by_hand_is_named(tmp_path, answers, requests, change):
    answers.write_text(answers.read_text().replace(*change, 1))
    with pytest.raises(UserError, match=r"answers.jsonl:1: this answer was changed .* remove answers.provenance.jsonl"):
        opened(tmp_path, requests)
    provenance_path(answers).unlink()
    with opened(tmp_path, requests) as file:
        assert len(file.sets) == 2


def test_another_spelling_of_a_line_is_no_change(tmp_path, answers, requests):
    lines = [json.dumps(json.loads(line), indent=None) for line in answers.read_text().splitlines()]
    answers.write_text("\n\n".join(reversed(lines)) + "\n")
    with opened(tmp_path, requests) as file:
        assert len(file.sets) == 2


def test_a_file_of_an_earlier_version_goes_on_with_a_warning(tmp_path, answers, requests, caplog):
    provenance_path(answers).unlink()
    (tmp_path / "answers.settings.json").write_text('{\n "seed": 1\n}\n')
    with caplog.at_level(logging.WARNING), opened(tmp_path, requests) as file:
        file.append(answer("none"))
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.endswith("did not note model and tokenizer and image_processor and pictures: taken to be as now")
    caplog.clear()
    with caplog.at_level(logging.WARNING), opened(tmp_path, requests) as file:
        assert len(file.sets) == 3
    assert not caplog.records
    colour(tmp_path / "red.png", "blue")
    with pytest.raises(UserError, match="2 faults in the input"):
        opened(tmp_path, requests)


@pytest.mark.parametrize("name", ["model", "tokenizer", "image_processor"])
def test_another_tokenizer_or_image_processor_is_refused(tmp_path, answers, requests, name):
    with pytest.raises(UserError, match=f"other settings: {name} .0 \\(now x\\)"):
        opened(tmp_path, requests, SETTINGS | {name: "x"})


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000])
def test_a_broken_settings_file_is_named(tmp_path, answers, requests, text):
    (tmp_path / "answers.settings.json").write_text(text)
    with pytest.raises(UserError, match="answers.settings.json: not a JSON object"):
        opened(tmp_path, requests)


def test_a_kill_between_note_and_answer_or_within_the_note_loses_nothing(tmp_path, answers, requests):
    with provenance_path(answers).open("a") as file:
        file.write(json.dumps({"answer": digest(answer("none")), "images": []}) + '\n{"answer": "00')
    with opened(tmp_path, requests) as file:
        assert len(file.sets) == 2
        file.append(answer("none"))
    with opened(tmp_path, requests) as file:
        assert len(file.sets) == 3
    provenance_path(answers).write_text("nonsense\n")
    with pytest.raises(UserError, match="answers.provenance.jsonl:1: not a line of provenance"):
        opened(tmp_path, requests)


def test_a_new_file_does_not_inherit_what_an_old_one_was_made_from(tmp_path, answers, requests):
    answers.unlink()
    with opened(tmp_path, requests):
        assert read_provenance(answers) == {}


def test_pictures_that_did_not_change_are_not_read_again(tmp_path, answers, requests, monkeypatch):
    monkeypatch.setattr(file_state, "SETTLED_S", -1e9)  # as if all had been written long ago
    with opened(tmp_path, requests):
        pass
    read = []
    monkeypatch.setattr(image_hashes, "read_file", lambda path: read.append(path) or path.read_bytes())
    with opened(tmp_path, requests) as file:
        assert len(file.sets) == 2
    assert read == []
    (tmp_path / "answers.images").unlink()
    with opened(tmp_path, requests):
        assert {path.name for path in read} == {"red.png", "green.png"} and len(read) == 2


def test_labelling_knows_whether_candidates_are_about_the_pictures(answers):
    one = answer("one")
    hashes = read_provenance(answers)[digest(one)]
    origins = CandidateOrigins(answers)
    origins.check(one, hashes)
    with pytest.raises(UserError, match="about another picture than lies there now"):
        origins.check(one, ["0" * 64])
    origins.check(answer("one", "edited"), hashes)
    assert origins.edited == 1
    unknown = CandidateOrigins(answers.with_name("foreign.jsonl"))
    unknown.check(one, ["0" * 64])
    assert unknown.edited == 0


def line(content: str, images: list[str], system: str = "") -> bytes:
    turns = [{"role": "system", "content": system}] if system else []
    return json.dumps({"id": "a", "images": images, "turns": [*turns, {"role": "user", "content": content}]}).encode()


def test_places_of_images_are_added_where_that_is_asked_for():
    assert prompt_kind(False) is Prompt and prompt_kind(True) is PlacedPrompt
    with pytest.raises(UserError, match="0 <image> placeholders for 1 images; .* or set add_image_placeholders=true"):
        parse_line(Prompt, line("What?", ["a.png"]), "p.jsonl", 1)
    placed = parse_line(PlacedPrompt, line("What?", ["a.png", "b.png"], system="Be brief."), "p.jsonl", 1)
    assert [turn.content for turn in placed.turns] == ["Be brief.", "<image>\n<image>\nWhat?"]
    for given in (line("<image>\nWhat?", ["a.png"]), line("What?", [])):
        assert parse_line(PlacedPrompt, given, "p.jsonl", 1).turns == parse_line(Prompt, given, "p.jsonl", 1).turns
    for bad in (line("<image> What?", ["a.png", "b.png"]), b'{"id": "a", "images": "x", "turns": 3}', b"[]"):
        with pytest.raises(UserError, match="p.jsonl:1: "):
            parse_line(PlacedPrompt, bad, "p.jsonl", 1)
