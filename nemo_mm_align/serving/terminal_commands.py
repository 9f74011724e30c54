"""What a line in the terminal that begins with a slash does."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from nemo_mm_align.core.errors import UserError, suggestion
from nemo_mm_align.serving.level_words import sayable
from nemo_mm_align.serving.talk import Talk


class Outcome(NamedTuple):
    """What follows from a command.

    Args:
        text: to be shown.
        question: to be asked now.
        sweep: attribute whose values the question is asked for, one after the other.
        leave: the conversation ends.
    """

    text: str = ""
    question: str | None = None
    sweep: str | None = None
    leave: bool = False


Command = Callable[[Talk, list[str]], Outcome]

_NUMBERS = {"temperature": float, "top_p": float, "top_k": int, "max_tokens": int, "seed": int}


def run(talk: Talk, line: str) -> Outcome:
    """Do what a line says.

    Raises:
        UserError: no such command, or one that cannot be done; the conversation is as it was.
    """
    try:
        name, *words = shlex.split(line[1:]) or [""]
    except ValueError as error:
        raise UserError(f"{line}: {error}. Put quotes around names with blanks.") from None
    asked = [item.name for item in talk.served.schema.asked] if talk.served.schema else []
    if name in asked:
        return _attribute(talk, name, words)
    if name in _NUMBERS:
        return _sampling(talk, name, words)
    if name not in _COMMANDS:
        raise UserError(f"/{name} is unknown.{suggestion(name, [*_COMMANDS, *_NUMBERS, *asked])}")
    return _COMMANDS[name](talk, words)


def _one(words: list[str], usage: str) -> str:
    if len(words) != 1:
        raise UserError(f"write {usage}")
    return words[0]


def _attribute(talk: Talk, name: str, words: list[str]) -> Outcome:
    value = " ".join(words)
    if value == "default" and talk.attributes is not None:
        talk.attributes.pop(name, None)
    elif not words:
        return Outcome(_scale(talk, name))
    else:
        talk.ask_for(name, _number(value))
    return Outcome(asking(talk))


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _scale(talk: Talk, name: str) -> str:
    assert talk.served.schema is not None
    attribute, lines = talk.served.schema[name], []
    words = sayable(attribute)
    for level, text in sorted(attribute.levels.items()):
        lines.append(f"  {level:g}  {text}" + (f"  (/{name} {words[level]})" if level in words else ""))
    ends = f"{attribute.minimum:g} to {attribute.maximum:g}"
    return "\n".join([f"{name}, {ends}: {attribute.description}", *lines])


def asking(talk: Talk) -> str:
    """In a line, what answers are asked for."""
    asked = talk.asked
    if asked is None:
        return "asked for nothing"
    return "asked for " + ", ".join(f"{name}={value:g}" for name, value in asked.items())


def _attributes(talk: Talk, words: list[str]) -> Outcome:
    if talk.served.schema is None:
        raise UserError("this model was trained without attributes.")
    said = _one(words or ["show"], "/attributes, /attributes none or /attributes default")
    if said == "none":
        talk.attributes = None
    elif said == "default":
        talk.attributes = {}
    elif said == "show":
        scales = [_scale(talk, item.name) for item in talk.served.schema.asked]
        return Outcome("\n".join([*scales, asking(talk)]))
    else:
        raise UserError(f"/attributes {said}: write none, default, or nothing behind it.")
    return Outcome(asking(talk))


def _sampling(talk: Talk, name: str, words: list[str]) -> Outcome:
    text = _one(words, f"/{name} NUMBER")
    try:
        talk.sampling[name] = _NUMBERS[name](text)
    except ValueError:
        raise UserError(f"/{name} {text}: is no {'whole ' if _NUMBERS[name] is int else ''}number.") from None
    return Outcome(", ".join(f"{key}={value:g}" for key, value in talk.sampling.items()))


def _image(talk: Talk, words: list[str]) -> Outcome:
    path = _one(words, "/image FILE, or /image none").strip()
    if path == "none":
        talk.pictures.clear()
        return Outcome("no picture with the next question")
    talk.show(Path(path).expanduser())
    return Outcome(f"{len(talk.pictures)} with the next question")


def _system(talk: Talk, words: list[str]) -> Outcome:
    if talk.messages:
        raise UserError("the conversation has begun; /new begins another, then /system TEXT.")
    talk.system = " ".join(words)
    return Outcome("the system message is set" if words else "the template's own system message")


def _new(talk: Talk, words: list[str]) -> Outcome:
    talk.messages.clear()
    talk.pictures.clear()
    return Outcome("a new conversation")


def _undo(talk: Talk, words: list[str]) -> Outcome:
    if talk.undo() is None:
        raise UserError("nothing has been asked so far.")
    return Outcome("the last question and its answer are forgotten")


def _again(talk: Talk, words: list[str]) -> Outcome:
    question = talk.undo()
    if question is None:
        raise UserError("nothing has been asked so far.")
    return Outcome(question=question)


def _sweep(talk: Talk, words: list[str]) -> Outcome:
    schema = talk.served.schema
    if schema is None:
        raise UserError("this model was trained without attributes.")
    if len(words) < 2:
        raise UserError("write /sweep ATTRIBUTE QUESTION")
    schema.refuse_unasked(words[:1])
    return Outcome(question=" ".join(words[1:]), sweep=words[0])


def _help(talk: Talk, words: list[str]) -> Outcome:
    return Outcome(HELP)


def _quit(talk: Talk, words: list[str]) -> Outcome:
    return Outcome(leave=True)


_COMMANDS: dict[str, Command] = {
    "image": _image, "attributes": _attributes, "sweep": _sweep, "system": _system, "new": _new, "undo": _undo,
    "again": _again, "help": _help, "quit": _quit, "exit": _quit,
}  # fmt: skip

HELP = """\
/NAME VALUE             ask for an attribute, as /verbosity 0 or /verbosity succinct; /NAME alone shows its scale
/attributes             all scales; /attributes none asks for nothing, /attributes default for the defaults
/sweep NAME QUESTION    the same question at every value of an attribute; not kept in the conversation
/image FILE             show a picture with the next question; /image none takes it back
/again, /undo           ask the last question once more (change an attribute before); forget it
/system TEXT, /new      a system message; a new conversation
/temperature, /top_p, /top_k, /max_tokens, /seed NUMBER
/quit                   or Ctrl-D; Ctrl-C breaks an answer off
A line that begins with // is a question that begins with /."""
