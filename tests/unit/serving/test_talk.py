"""A conversation in the terminal becomes the requests that a server would get; commands change what is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.inference.engine import Listener, Ticket
from nemo_mm_align.inference.prefill import ImageBatch
from nemo_mm_align.inference.rows import DecodingRequest
from nemo_mm_align.serving.chat_request import read_chat
from nemo_mm_align.serving.talk import Talk
from nemo_mm_align.serving.terminal import Terminal
from nemo_mm_align.serving.terminal_commands import run
from tests.unit.serving.scripted_server import ScriptedEngine
from tests.unit.serving.toy_model import png, schema, served


@pytest.fixture
def talk() -> Talk:
    return Talk(served(attributes=schema()), {})


def text_of(talk: Talk, question: str) -> str:
    """The prompt that the model is shown."""
    (request,) = read_chat(talk.body(question), talk.served).requests
    return str(talk.served.encoder.tokenizer.decode(request.prompt.ids))


def test_a_question_is_asked_at_the_defaults_and_as_named(talk: Talk) -> None:
    assert "What?\nPlease answer" in text_of(talk, "What?") and "Verbosity:2 ASSISTANT:" in text_of(talk, "What?")
    assert run(talk, "/verbosity 0").text.endswith("complexity=2, verbosity=0")
    assert "Complexity:2,Verbosity:0 ASSISTANT:" in text_of(talk, "What?")
    assert run(talk, "/complexity expert").text.endswith("complexity=4, verbosity=0")
    run(talk, "/verbosity default")
    assert "Complexity:4,Verbosity:2 ASSISTANT:" in text_of(talk, "What?")
    assert run(talk, "/attributes none").text == "asked for nothing"
    assert "Verbosity" not in text_of(talk, "What?")
    assert "verbosity=2" in run(talk, "/attributes default").text


def test_pictures_and_answers_stay_where_they_were_said(talk: Talk, tmp_path: Path) -> None:
    path = tmp_path / "a red one.png"
    path.write_bytes(png())
    assert run(talk, f"/image '{path}'").text == "1 with the next question"
    run(talk, "/attributes none")
    asked = read_chat(talk.body("What?"), talk.served)
    assert asked.images is not None and len(asked.images.pixels_NCHW) == 1
    talk.add("What?", "Red.")
    assert text_of(talk, "Sure?").endswith(
        "USER: <image><image><image><image>\nWhat? ASSISTANT: Red.</s>USER: Sure? ASSISTANT:"
    )
    assert run(talk, "/again").question == "What?"
    assert text_of(talk, "What?").endswith("USER: <image><image><image><image>\nWhat? ASSISTANT:"), (
        "the picture is shown again"
    )
    run(talk, "/image none")
    assert "<image>" not in text_of(talk, "What?")


class Scarce(ScriptedEngine):
    """An engine that has no memory for any prompt, and goes on."""

    def submit(self, request: DecodingRequest, images: ImageBatch | None, listener: Listener) -> Ticket:
        ticket = super().submit(request, images, listener)
        listener.failed(ticket, torch.OutOfMemoryError("CUDA out of memory"))
        return ticket


def test_the_conversation_outlives_a_prompt_without_memory() -> None:
    lines, shown, engine = iter(("What?", "And now?", "/quit")), list[str](), Scarce()
    Terminal(served(), engine, lambda prompt: next(lines), shown.append).run()  # type: ignore[arg-type]
    assert len(engine.tickets) == 2 and "".join(shown).count("there was no memory for this prompt") == 2


def test_a_sweep_asks_the_same_question_and_is_no_part_of_the_conversation(talk: Talk) -> None:
    outcome = run(talk, "/sweep verbosity 'how many?'")
    assert (outcome.question, outcome.sweep, talk.messages) == ("how many?", "verbosity", [])
    asked = read_chat({**talk.body("how many?"), "sweep": ["verbosity"]}, talk.served)
    assert [values and values["verbosity"] for values in asked.attributes] == [0, 1, 2, 3, 4]


def test_a_system_message_and_settings_of_sampling(talk: Talk) -> None:
    run(talk, "/attributes none")
    run(talk, "/system You are brief.")
    run(talk, "/temperature 0.5")
    run(talk, "/max_tokens 7")
    assert text_of(talk, "Hi").startswith("You are brief. USER: Hi")
    (request,) = read_chat(talk.body("Hi"), talk.served).requests
    assert (request.sampling.temperature, request.sampling.max_new_tokens) == (0.5, 7)
    talk.add("Hi", "Yes?")
    with pytest.raises(UserError, match="/new begins another"):
        run(talk, "/system Be long.")
    run(talk, "/new")
    assert talk.messages == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/verbositty 0", "verbositty is unknown.*verbosity"),
        ("/verbosity 5", "outside 0 to 4"),
        ("/verbosity lots", "'succinct' \\(0\\)"),
        ("/image", "write /image FILE"),
        ("/image none.png", "none.png: no such image"),
        ("/image 'a", "No closing quotation"),
        ("/temperature hot", "is no number"),
        ("/seed 1.5", "is no whole number"),
        ("/again", "nothing has been asked"),
        ("/sweep speed what?", "unknown attribute 'speed'"),
        ("/sweep verbosity", "write /sweep ATTRIBUTE QUESTION"),
        ("/attributes all", "write none, default"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(talk: Talk, line: str, said: str) -> None:
    before = talk.body("x")
    with pytest.raises(UserError, match=said):
        run(talk, line)
    assert talk.body("x") == before


def test_a_model_without_attributes_says_so() -> None:
    talk = Talk(served(), None)
    for line in ("/attributes", "/sweep verbosity what?"):
        with pytest.raises(UserError, match="trained without attributes"):
            run(talk, line)
    with pytest.raises(UserError, match="verbosity is unknown"):
        run(talk, "/verbosity 0")
