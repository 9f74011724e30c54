"""The Jinja text of an exported chat template.

The parts of a message are looped over as ``message['content']`` in the loop over messages itself: vLLM and SGLang look for
that loop in the syntax tree, and where it is missing (inside a macro, say) they pass content as one string with all images
in front. What a request gets wrong is raised, never passed over: vLLM and SGLang answer it with status 400.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from nemo_mm_align.schema.attribute import Attribute
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import IMAGE_PLACEHOLDER

IMAGE_PART = IMAGE_PLACEHOLDER + "\n"
"""What an image part of a content list renders as, as in LLaVA's own chat template."""

_JINJA = """
{%- set place = namespace(last_user=-1) -%}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}{%- set place.last_user = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- set steered = attributes is defined and attributes is not none -%}
{%- if steered -%}@check@{%- endif -%}
{{- @bos@ -}}
{%- if @system@ and messages[0]['role'] != 'system' -%}{{- @system_prefix@ + @system@ + @system_suffix@ -}}{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] not in ['user', 'assistant'] and not (loop.first and message['role'] == 'system') -%}
{{- raise_exception('roles are user and assistant, after an optional system message; got ' ~ message['role']) -}}
{%- endif -%}
{%- set text = namespace(value='') -%}
{%- if message['content'] is string -%}{%- set text.value = message['content'] -%}
{%- elif message['content'] is not defined or message['content'] is none -%}
{{- raise_exception('a message of role ' ~ message['role'] ~ ' has no content') -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}{%- set text.value = text.value + part['text'] -%}
{%- elif part['type'] not in ['image', 'image_url', 'input_image'] -%}
{{- raise_exception('content of type ' ~ part['type'] ~ ' is not known to this model; it takes text and image') -}}
{%- elif message['role'] != 'user' -%}
{{- raise_exception('an image may only stand in a user message; got one of role ' ~ message['role']) -}}
{%- else -%}{%- set text.value = text.value + @image@ -%}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- if message['role'] == 'user' -%}
{{- @question@ + text.value -}}
{%- if steered and loop.index0 == place.last_user -%}@steering@{%- endif -%}
{{- @user_suffix@ -}}
{%- elif message['role'] == 'assistant' -%}
{{- @assistant_prefix@ + @answer_labels@@answer_prefix@ + (text.value | trim) + @stop@ + @behind@ -}}
{%- elif text.value -%}{{- @system_prefix@ + text.value + @system_suffix@ -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- @assistant_prefix@@prompt_labels@ -}}{%- endif -%}
"""

_LATER = "loop.index0 > (1 if messages[0]['role'] == 'system' else 0)"
"""Whether a question stands behind an answer."""


def chat_template_jinja(
    pieces: Mapping[str, str | None], schema: AttributeSchema | None, bos: str, ends_with_answer: bool = False
) -> str:
    """Return a Hugging Face chat template.

    Args:
        pieces: fields of a `ChatTemplate`.
        schema: whose attributes a request may ask for; None refuses any.
        bos: text that stands first.
        ends_with_answer: see `ChatTemplate.jinja`.
    """
    literals = {name: _literal(text or "") for name, text in pieces.items()}
    literals |= {"image": _literal(IMAGE_PART), "bos": _literal(bos), "question": literals["user_prefix"]}
    literals["stop"] = _literal(f"{pieces['answer_suffix']}{pieces['stop']}")
    separator = literals["separator"]
    literals["behind"] = f"('' if loop.last else {separator})" if ends_with_answer else separator
    if pieces["later_user_prefix"] is not None:
        literals["question"] = f"({literals['later_user_prefix']} if {_LATER} else {literals['user_prefix']})"
    literals |= {"check": _check(schema)} | _asking(pieces, schema)
    return re.sub(r"@(\w+)@", lambda match: literals[match[1]], _JINJA.replace("\n", ""))


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _raise(message: str) -> str:
    """`message` is a Jinja expression."""
    return "{{- raise_exception(" + message + ") -}}"


def _check(schema: AttributeSchema | None) -> str:
    """Raise where the attributes are no mapping, one has an unknown name or a value that it cannot have."""
    if schema is None:
        return _raise("'this model was trained without attributes'")
    asked = [attribute.name for attribute in schema.asked]
    parts = [
        "{%- if attributes is not mapping -%}"
        + _raise("'attributes must be an object of names and numbers'")
        + "{%- endif -%}",
        "{%- if place.last_user < 0 -%}"
        + _raise("'attributes need a user message to be appended to'")
        + "{%- endif -%}",
        "{%- for name in attributes -%}{%- if name not in " + json.dumps(asked) + " -%}",
        _raise(f"'unknown attribute ' ~ name ~ '; known: {', '.join(asked)}'"),
        "{%- endif -%}{%- endfor -%}",
    ]
    return "".join([*parts, *map(_check_value, schema.asked)])


def _check_value(attribute: Attribute) -> str:
    value, low, high = f"attributes['{attribute.name}']", attribute.minimum, attribute.maximum
    faults = [f"{value} is boolean", f"{value} is not number", f"not {low!r} <= {value} <= {high!r}"]
    if attribute.integer:
        faults.append(f"{value} % 1 != 0")
    wanted = f"{'a whole number' if attribute.integer else 'a number'} from {low:g} to {high:g}"
    message = f"'attribute {attribute.name}=' ~ {value} ~ ' is not {wanted}'"
    condition = f"'{attribute.name}' in attributes and ({' or '.join(faults)})"
    return "{%- if " + condition + " -%}" + _raise(message) + "{%- endif -%}"


def _asking(pieces: Mapping[str, str | None], schema: AttributeSchema | None) -> dict[str, str]:
    """Where the values stand that are asked for: behind the last question, or before the answer."""
    nowhere = {"steering": "", "answer_labels": "", "prompt_labels": ""}
    if schema is None:
        return nowhere
    if pieces["attributes_prefix"] is None:
        line = _values(chr(10) + schema.steering_head, schema, [item.label for item in schema.asked])
        return nowhere | {"steering": "{{- " + line + " -}}"}
    values = _values(pieces["attributes_prefix"], schema, [item.name for item in schema.asked])
    labels = f"{values} + {_literal(pieces['attributes_suffix'] or '')}"
    last = "steered and loop.last and not add_generation_prompt"
    return nowhere | {
        "answer_labels": f"({labels} if {last} else '') + ",
        "prompt_labels": f" + ({labels} if steered else '')",
    }


def _values(head: str, schema: AttributeSchema, labels: Sequence[str]) -> str:
    """`head` and the values behind it, a Jinja expression."""
    values = []
    for attribute, label in zip(schema.asked, labels, strict=True):
        value = f"(attributes['{attribute.name}'] if '{attribute.name}' in attributes else {attribute.default:g})"
        values.append(f"({json.dumps(label + ':')} + '%g' | format({value} | float))")
    return f"{_literal(head)} + " + " + ',' + ".join(values)
