"""Which chat template a Hugging Face folder is prompted with: the one that is given, its own if it is a known one, a default.

A folder's own template (Jinja) is never run to make prompts: it is rendered on two short conversations and compared with the
templates of ``conf/template/``, so that what is used instead of it can be named and a difference be said aloud.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from nemo_mm_align.core.folder_files import read_object
from nemo_mm_align.core.repository import CONF
from nemo_mm_align.schema.chat_template import ChatTemplate
from nemo_mm_align.schema.records import Turn

DEFAULT = "vicuna_v1"

_QUESTION = [Turn(role="user", content="<image>\nWhat is it?")]
_SECOND = [*_QUESTION, Turn(role="assistant", content="A circle."), Turn(role="user", content="Why?")]


@dataclass(frozen=True)
class Choice:
    """A chosen template.

    Args:
        template: the template.
        words: what chooses it on the command line.
        reason: why it was chosen.
        warning: what is to be said of a folder whose own template gives other text.
    """

    template: ChatTemplate
    words: str
    reason: str
    warning: str | None = None


def choose_template(folder: str | Path, given: ChatTemplate | None) -> Choice:
    """Choose the template of a Hugging Face folder: `given`, else the folder's own if it is a known one, else vicuna_v1."""
    own = own_text(folder)
    known = matching(folder) if own is not None else None
    if given is not None:
        return _with_warning(Choice(given, f"template={given.name}", "as given"), folder, own, known)
    if known is not None:
        return Choice(known[1], known[0], "which its own chat template is")
    words = f"template={DEFAULT}"
    absent = "cannot be rendered" if own_chat_template(folder) is not None else "does not exist"
    reason = f"the default, since a chat template of its own {absent}" if own is None else "the default"
    return _with_warning(Choice(dict(known_templates())[words], words, reason), folder, own, None)


def _with_warning(
    choice: Choice, folder: str | Path, own: str | None, known: tuple[str, ChatTemplate] | None
) -> Choice:
    if own is None or agrees(folder, choice.template):
        return choice
    ours = choice.template.render(_QUESTION, add_generation_prompt=True)
    theirs = "the text of the folder's own"
    remedy = f"{known[0]} gives {theirs}" if known else f"none of conf/template/ gives {theirs}"
    return replace(
        choice,
        warning=f"{folder}: its own chat template makes {own!r} of a question, {choice.words} {ours!r}; {remedy}",
    )


def own_chat_template(folder: str | Path) -> str | None:
    """Return the Jinja text that transformers' processor takes of a folder, else its tokenizer's; None where there is none."""
    folder = Path(folder)
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        found = _values(folder / name).get("chat_template")
        if isinstance(found, list):  # several, by name
            found = next((item.get("template") for item in found if item.get("name") == "default"), None)
        if isinstance(found, str):
            return found
    return None


def known_templates() -> Iterator[tuple[str, ChatTemplate]]:
    """Yield the templates of ``conf/template/`` with the words that choose them, each with and without its system text."""
    for path in sorted((CONF / "template").glob("*.yaml")):
        template = ChatTemplate.from_config(yaml.safe_load(path.read_text(encoding="utf-8")))
        yield f"template={path.stem}", template
        if template.system:
            yield f"template={path.stem} template.system=''", template.model_copy(update={"system": ""})


def matching(folder: str | Path) -> tuple[str, ChatTemplate] | None:
    """Return the known template that gives the same text as the folder's own, and the words that choose it."""
    return next(((words, known) for words, known in known_templates() if agrees(folder, known)), None)


def agrees(folder: str | Path, template: ChatTemplate) -> bool:
    """Whether a folder's own template gives the same text, bos token aside."""
    wanted = [template.render(turns, add_generation_prompt=True) for turns in (_QUESTION, _SECOND)]
    return any(form == wanted for form in _rendered(folder))


def own_text(folder: str | Path) -> str | None:
    """Return what a folder's own template makes of a question; None where there is none that can be rendered."""
    return next((form[0] for form in _rendered(folder)), None)


def _rendered(folder: str | Path) -> Iterator[list[str]]:
    """The probes in a folder's own template: content as parts, then as strings; forms that it cannot render are left out."""
    text = own_chat_template(folder)
    if text is None:
        return
    bos, eos = _special_tokens(Path(folder))
    for parts in (True, False):
        try:
            template = _compiled(text)
            given = {"add_generation_prompt": True, "bos_token": bos, "eos_token": eos}
            yield [
                template.render(messages=_messages(turns, parts), **given).removeprefix(bos)
                for turns in (_QUESTION, _SECOND)
            ]
        except Exception:  # a stranger's template may raise anything; mostly it is made for the other form of content
            continue


def _messages(turns: list[Turn], parts: bool) -> list[dict[str, Any]]:
    return [{"role": turn.role, "content": _parts(turn.content) if parts else turn.content} for turn in turns]


def _parts(content: str) -> list[dict[str, str]]:
    text = content.removeprefix("<image>\n")
    return [*([{"type": "image"}] if text != content else []), {"type": "text", "text": text}]


@functools.lru_cache(maxsize=8)
def _compiled(text: str) -> Template:
    """The template of a text, which is compared with all that are known: compiling takes longer than all that follows."""
    return _environment().from_string(text)


def _environment() -> ImmutableSandboxedEnvironment:
    """As transformers': a template of a stranger's reaches no attribute that begins with an underscore."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _raise
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    return environment


def _raise(message: str) -> None:
    raise TemplateError(message)


def _special_tokens(folder: Path) -> tuple[str, str]:
    values = {**_values(folder / "special_tokens_map.json"), **_values(folder / "tokenizer_config.json")}
    found = [values.get(key) for key in ("bos_token", "eos_token")]
    bos, eos = (item.get("content", "") if isinstance(item, Mapping) else item or "" for item in found)
    return str(bos), str(eos)


def _values(path: Path) -> dict[str, Any]:
    return read_object(path, path.name) if path.exists() else {}
