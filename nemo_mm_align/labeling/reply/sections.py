"""Ratings in free layouts: each candidate's name as a heading or key, its attributes with a number each below.

``Ratings for Response A:``, ``'Response A': {``, ``**Answer 1**``, ``candidate_2:`` are such names; values stand as
``"Helpfulness": 0.7,  // why``, ``- Helpfulness: 0.7 (why)`` or ``Helpfulness: 0.7. Why``. What is no plain number
(``4/5``, ``2-3``, ``3 out of 4``) is noted as unreadable, so that it is never taken for one.
"""

from __future__ import annotations

import re
from typing import Any

from nemo_mm_align.labeling.reply.claims import Claims, attribute_spellings, candidate_number
from nemo_mm_align.labeling.reply.objects import Pairs, find_objects, leaves
from nemo_mm_align.schema.attribute import spelling
from nemo_mm_align.schema.attributes import AttributeSchema

LONGEST_LINE = 5_000
"""Characters of a line that are read: prose behind them holds no ratings."""

NOUN = r"(?:response|answer|candidate|assistant|output|option|model|completion)s?"
LABEL = r"(?:[A-Z]|[0-9]{1,2}|(?<=[_-])[a-z])(?![A-Za-z0-9])"
SCORES = r"(?:ratings?|scores?|evaluations?|assessments?)"
REFERENCE = re.compile(rf"(?i:\b{NOUN})[\s_#(-]*({LABEL})")
REFERENCES = rf"(?i:{NOUN})[\s_#(-]*{LABEL}\)?(?:\s*(?:,|&|/|\band\b)\s*(?:(?i:{NOUN})[\s_#-]*)?{LABEL})*"
QUOTES = r"[\"'*_`\s]*"
HEADING = re.compile(
    rf"(?P<lead>(?i:(?:the\s+|my\s+|final\s+|overall\s+)*{SCORES}\s+(?:of|for)\s+(?:both\s+)?))?"
    rf"(?P<names>{REFERENCES}|[A-Z](?=[\"'*]*\s*:)|[0-9]{{1,2}}(?=[\"'*]*\s*:))(?:'s)?(?P<trail>(?i:\s+{SCORES}))?"
    rf"{QUOTES}(?:[:=]{QUOTES}|$)"
)
LEAD_IN = re.compile(r"(?P<text>[^.!?]{1,100}):\W*")
DIGRESSION = re.compile(r"(?i)\b(?:examples?|e\.g|ideal|perfect|hypothetical\w*|instead|reference|previous\w*)\b")
DECORATION = re.compile(r"(?:[\s>*#_\-•–`\"'{}\[\],|+]|[0-9]{1,2}[.)]\s)+")
NUMBER = re.compile(r"[+-]?[0-9]{1,15}(?:\.[0-9]{1,20})?")
HEDGE = r"(?:or|to|out|of|up|on\s+a|on\s+the|maybe|perhaps|possibly|actually|rather|instead|wait)\b"
EXPLANATION = re.compile(
    r"\s*[,;.]?\s*(?://|\#|/\*|<!--)"
    rf"|\s*[,;]?\s*\(\s*(?i:(?!{HEDGE})[a-z\"'])"
    rf"|\s*[.,;:]\s+(?i:(?!{HEDGE})[a-z\"'])"
    rf"|\s+[-–—]\s+(?i:(?!{HEDGE})[a-z\"'])"
    r"|\s+(?i:as|because|since|due)\b"
)


def read_sections(text: str, schema: AttributeSchema) -> Claims:
    """Return what the text says of each candidate that it names; nothing where it names none."""
    reader = _Reader(schema)
    for line in _lines(text + "…" if _may_be_cut(text) else text, reader.names):
        # A number that the limit cuts is followed by a mark, and is then none.
        reader.read(line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}…")
    return reader.claims


class _Reader:
    """Goes through a reply line by line; `current` are the candidates that the last name announced."""

    def __init__(self, schema: AttributeSchema) -> None:
        self.names = attribute_spellings(schema)
        self.claims = Claims()
        self.current: frozenset[int] = frozenset()
        words = (r"[\s_-]*".join(map(re.escape, re.split(r"[_-]", name))) for name in schema.names)
        self._rating = re.compile(rf"(?i:(?P<name>{'|'.join(words)}))[\"'*_`]*\s*[:=]{QUOTES}")

    def read(self, line: str) -> None:
        """Take the names and ratings off the front of a line until there is something else."""
        rest = _bare(line)
        if not self._heading(rest) and (lead := LEAD_IN.fullmatch(rest)) is not None:
            self._lead_in(lead["text"])
        elif rest.endswith("{") and not HEADING.match(rest):
            self.current = frozenset()  # an object in the middle of a sentence is nobody's rating
        while rest:
            if heading := self._heading(rest):
                self.current = _announced(heading)
                rest = _bare(rest[heading.end() :])
            elif (after := self._rated(rest)) is not None:
                rest = _bare(after)
            else:
                return

    def _heading(self, text: str) -> re.Match[str] | None:
        return HEADING.match(text)

    def _lead_in(self, text: str) -> None:
        """Take a line that ends with a colon and names one candidate as its heading."""
        named = {candidate_number(label) for label in REFERENCE.findall(text)}
        if len(named) == 1 and not DIGRESSION.search(text):
            self.current = frozenset(named)
        elif named or DIGRESSION.search(text):
            self.current = frozenset()

    def _rated(self, text: str) -> str | None:
        """Note the rating that the text starts with and return what follows it; None where there is none."""
        match = self._rating.match(text)
        attribute = self.names.get(spelling(match["name"])) if match else None
        if (
            match is None
            or attribute is None
            or not re.match(r"(?i)[0-9+.-]|nan\b|inf|true\b|false\b", text[match.end() :])
        ):
            return None
        number = NUMBER.match(text, match.end())
        rest = self._after_number(text[number.end() :]) if number else None
        for candidate in self.current:
            self.claims.add(candidate, attribute, float(number[0]) if number and rest is not None else None)
        return rest

    def _after_number(self, text: str) -> str | None:
        """Return what is still to be read behind a number; None where the number is part of something else."""
        text = re.sub(r"^[\"'*_`]+", "", text)
        following = re.sub(r"^\s*[,;|]\s*", "", text)
        if following != text and self._rating.match(_bare(following)):
            return following
        return "" if re.fullmatch(r"\s*[,;.]?[|\])}\s]*", text) or EXPLANATION.match(text) else None


def _announced(heading: re.Match[str]) -> frozenset[int]:
    """Return the candidates of a heading; several share a rating only where it says that ratings follow."""
    labels = re.findall(rf"(?<![A-Za-z0-9]){LABEL}", heading["names"])
    named = frozenset(candidate_number(label) for label in labels)
    return named if len(named) == 1 or heading["lead"] or heading["trail"] else frozenset()


def _may_be_cut(text: str) -> bool:
    """Whether digits of the last number may be missing: it ends with the point, or inside an object."""
    end = text.rstrip()[-2:]
    return bool(re.fullmatch(r"[0-9]\.", end)) or (end[-1:].isdigit() and text.count("{") > text.count("}"))


def _bare(line: str) -> str:
    match = DECORATION.match(line)
    return line[match.end() if match else 0 :].rstrip()


def _lines(text: str, names: dict[str, str]) -> list[str]:
    """Return the text's lines; an object becomes one line per key, without the texts it holds."""
    parts, end = [], 0
    for found in find_objects(text):
        parts += [_split_braces(text[end : found.start]), "{\n", *_object_lines(found.value, names), "\n"]
        end = found.end
    parts.append(_split_braces(text[end:]))
    return "".join(parts).replace("“", '"').replace("”", '"').replace("’", "'").splitlines()


def _split_braces(text: str) -> str:
    return text.replace("{", "{\n").replace("}", "\n}\n")


def _object_lines(value: Pairs, names: dict[str, str]) -> list[str]:
    lines = []
    for key, item in leaves(value):
        if isinstance(item, Pairs):
            lines.append(f"{' '.join(key.split())}:\n")
        elif spelling(key) in names:
            lines.append(f"{key}: {_plain(item)}\n")
    return lines


def _plain(value: Any) -> str:
    """Return a value as one line; what is neither number nor text is not a number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return "nan"
    return " ".join(str(value).split()) or "nan"
