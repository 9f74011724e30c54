"""Replies that are not quite JSON, or hold the model's thinking, or are made to keep a parser busy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_mm_align.labeling.parsing import MAX_FREE_TEXT, MAX_TEXT, parse_reply
from nemo_mm_align.labeling.reply.thinking import without_thinking
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.schema.attribute import Attribute
from nemo_mm_align.schema.attributes import AttributeSchema

SCHEMA = AttributeSchema(name="s", attributes=(Attribute(name="quality"), Attribute(name="depth")), score=("quality",))
RATED = ({"quality": 4, "depth": 3}, {"quality": 1, "depth": 0})


def reply(first: int = 4, reasoning: str = "so") -> str:
    ratings = [
        {"candidate": 1, "reasoning": reasoning, "scores": {"quality": first, "depth": 3}},
        {"candidate": 2, "reasoning": "no", "scores": {"quality": 1, "depth": 0}},
    ]
    return json.dumps({"my_answer": "A barn.", "ratings": ratings})


def reasoning_of(text: str) -> str:
    parsed = parse_reply(text, SCHEMA, 2, want_reference=True)
    assert (parsed.ratings, parsed.reference_answer) == (RATED, "A barn.")
    return parsed.reasoning[0]


NEAR = {
    "raw line break": ('"so"', '"one\ntwo\tthree"', "one\ntwo\tthree"),
    "raw line break and a trailing comma": (
        '"so", "scores": {"quality": 4,',
        '"one\ntwo", "scores": {"quality": 4,',
        "one\ntwo",
    ),
    "quotes inside": ('"so"', '"the word "red" is right"', 'the word "red" is right'),
    "quotes and commas inside": ('"so"', '"says "red", "blue" and more"', 'says "red", "blue" and more'),
    "apostrophe": ('"so"', "'it\\'s so'", "it's so"),
    "bare apostrophe": ('"so"', "'it's so'", "it's so"),
    "LaTeX": ('"so"', '"\\(x\\) is 5\\%"', "\\(x\\) is 5\\%"),
    "typographic": ('"so"', "“so it is”", "so it is"),
    "three quotes": ('"so"', '"""one\n"two" three"""', 'one\n"two" three'),
    "hexadecimal escape": ('"so"', "'\\x41\\u0042'", "AB"),
    "pair of escapes": ('"so"', "'\\ud83d\\ude00!'", "\U0001f600!"),
    "comment": ('"so"', '"so" // why, "really" {\n', "so"),
    "comment before the comma": ('"so"', '"so" /* {1} */', "so"),
    "keys without quotes": ('"candidate": 1, "reasoning"', "candidate: 1, reasoning", "so"),
    "trailing commas": ("}}]}", "},},],}", "so"),
    "constants": ('{"my_answer"', '{"note": None, "sure": True, "my_answer"', "so"),
}


@pytest.mark.parametrize(("old", "new", "reasoning"), NEAR.values(), ids=NEAR)
def test_what_any_reader_understands_is_read(old: str, new: str, reasoning: str) -> None:
    text = reply().replace(old, new, 1)
    assert text != reply() and reasoning_of(text) == reasoning
    assert reasoning_of(f"Here it is:\n```json\n{text}\n```\nThat was all {{of it}}.") == reasoning


def test_json_in_a_json_string_is_unpacked() -> None:
    assert reasoning_of(json.dumps(reply(reasoning='a "b"'))) == 'a "b"'


@pytest.mark.parametrize("end", range(1, 14))
def test_what_is_cut_off_is_never_completed(end: int) -> None:
    for text in (reply()[:-end], reply().replace('"so"', '"a "b" c"')[:-end]):
        with pytest.raises(CallFailure, match="unparsable"):
            parse_reply(text, SCHEMA, 2, want_reference=True)


DRAFT = reply(first=0)
THINKING = {
    "tag": "<think>{}</think>",
    "in capitals": "<THINKING>\n{}\n</THINKING>",
    "with attributes": '<reasoning effort="high">{}</reasoning>',
    "brackets": "[THINK]{}[/THINK]",
    "corners": "◁think▷{}◁/think▷",
    "thought": "<|begin_of_thought|>{}<|end_of_thought|>",
    "start and end": "<|START_THINKING|>{}<|END_THINKING|>",
    "seed": "<seed:think>{}</seed:think>",
    "channels": "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>",
    "channels with recipient": "<|channel|>commentary to=tool<|message|>{}<|call|><|start|>assistant<|channel|>final <|message|>",
    "channels of another": "<|channel>thought\n{}\n<channel|>",
    "channels without marks": "analysisWe rate {} so.assistantfinal",
    "twice": "<think>{}</think><think>{}</think>",
    "inside each other": "<thinking>a <think>{}</think>",
    "marks that nobody keeps": "<unused94>thought {}<unused95>",
}


@pytest.mark.parametrize("marks", THINKING.values(), ids=THINKING)
def test_thinking_is_no_judgement(marks: str) -> None:
    thought = marks.replace("{}", DRAFT)
    assert reasoning_of(f"{thought}{reply()}") == "so"
    assert reasoning_of(f"{thought}\n```json\n{reply()}\n```<|return|>") == "so"
    with pytest.raises(CallFailure, match="the reply is thinking"):
        parse_reply(thought, SCHEMA, 2)


@pytest.mark.parametrize("marks", [mark for name, mark in THINKING.items() if name != "channels without marks"])
def test_thinking_without_end_or_beginning_is_thinking_too(marks: str) -> None:
    opening, closing = marks.split("{}")[0], marks.split("{}")[-1]
    free = "Response A:\nQuality: 0\nDepth: 0\nResponse B:\nQuality: 4\nDepth: 4\n"
    for draft in (DRAFT, free):
        with pytest.raises(CallFailure, match="unparsable"):
            parse_reply(f"{opening}{draft}\nNo, I mixed them up: the first", SCHEMA, 2)
    assert reasoning_of(f"I see. {DRAFT}{closing}\n\n{reply()}") == "so"
    assert reasoning_of(f"{reply()}\n{opening}{DRAFT} or perhaps") == "so", "what was said before it began counts"


def test_a_mark_that_is_spoken_of_is_no_thinking() -> None:
    for words in ("it writes <think> first", "a stray </think> and [THINK]", "<|channel|>analysis"):
        assert reasoning_of(reply(reasoning=words)) == words
        assert reasoning_of(f"<think>{DRAFT}</think>\n{reply(reasoning=words)}") == words
    assert without_thinking("no marks, 3 < 4 and <b>bold</b>") == "no marks, 3 < 4 and <b>bold</b>"


def test_ratings_below_a_key_of_thoughts_are_drafts() -> None:
    rated = {"Response A": {"quality": 4, "depth": 3}, "Response B": {"quality": 1, "depth": 0}}
    draft = {"Response A": {"quality": 0, "depth": 0}, "Response B": {"quality": 4, "depth": 4}}
    assert parse_reply(json.dumps({"Thinking": draft, **rated}), SCHEMA, 2).ratings == RATED
    with pytest.raises(CallFailure, match="unparsable"):
        parse_reply(json.dumps({"thinking": draft}), SCHEMA, 2)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 400, "9" * 5000, "1e15000", "NaN", "0x4", "1_0"])
def test_absurd_numbers_are_none(number: str) -> None:
    with pytest.raises(CallFailure, match=r"unparsable|out_of_range"):
        parse_reply(reply().replace('"quality": 4', f'"quality": {number}'), SCHEMA, 2)


def test_long_texts_are_refused_before_they_are_read() -> None:
    assert reasoning_of(f"<think>{'x' * (MAX_TEXT - 500)}</think>{reply()}") == "so"
    with pytest.raises(CallFailure, match=r"unparsable: 400,001 characters; at most 400,000 are read"):
        parse_reply("x" * (MAX_TEXT + 1), SCHEMA, 2)
    with pytest.raises(CallFailure, match="no object with 'ratings' in 100,001 characters"):
        parse_reply("x" * (MAX_FREE_TEXT + 1), SCHEMA, 2)


def test_a_line_is_read_up_to_a_limit_and_no_number_is_cut() -> None:
    free = "Response A: quality: 4, depth: 3\nResponse B: quality: 1, depth: 0"
    assert parse_reply(free, SCHEMA, 2).ratings == RATED
    far = f"Response A:{' ' * 4_976}quality: 40, depth: 3\nResponse B: quality: 1, depth: 0"
    with pytest.raises(CallFailure, match="unparsable"):
        parse_reply(far, SCHEMA, 2)


BUSY = (
    "{",
    '{"a":',
    '{"a":[',
    '{"',
    "{\"x{'x",
    "{/*",
    "{#",
    "{'a':1 'b'",
    '{"a":"b" x ',
    '{"a":"\\"',
    '</think>{"a":{',
    "<think>",
)
WORK = f"""
import resource
resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
from nemo_mm_align.schema.attribute import Attribute
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.labeling.judge import CallFailure
from nemo_mm_align.labeling.parsing import MAX_TEXT, MAX_FREE_TEXT, parse_reply
schema = AttributeSchema(name="s", attributes=(Attribute(name="quality"),), score=())
failed = 0
for unit in {(*BUSY, "Response A:" + chr(10) + "Quality: 3" + chr(10), "quality: 3, ", "A,")!r}:
    for limit in (MAX_TEXT, MAX_FREE_TEXT):
        try:
            parse_reply((unit * limit)[:limit], schema, 2)
        except CallFailure:
            failed += 1
print(failed)
"""


@pytest.mark.slow
def test_no_reply_keeps_the_parser_busy(repository: Path) -> None:
    """30 texts of the largest size under a hard limit of processor time; attempts that grow with the square take hours."""
    command = [sys.executable, "-c", WORK]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "30\n"), done.stderr[-500:]
