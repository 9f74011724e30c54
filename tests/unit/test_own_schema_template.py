"""Schemas other than the paper's in chat templates: the exported one says what training says."""

import pytest

from nemo_mm_align.inference.requests import sweep_assignments
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.chat_template import ChatTemplate
from nemo_mm_align.schema.prompts import with_attributes
from nemo_mm_align.schema.records import Turn
from tests.unit import toy_tokenizers
from tests.unit.test_attributes import fractions, schema_with

SCHEMAS = {
    "fractions": fractions("clarity", "made-up"),
    "mixed": schema_with(score=("quality",)),
    "own words": fractions("clarity", "wit", steering="Größe \"{x}\" '@stop@' {{ a }} \\n %s, wanted:\n{attributes}"),
}


@pytest.fixture(scope="module")
def vicuna(repository) -> ChatTemplate:
    import yaml

    return ChatTemplate.from_config(yaml.safe_load((repository / "conf/template/vicuna_v1.yaml").read_text()))


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_the_exported_template_says_what_training_says(vicuna, schema: AttributeSchema):
    tokenizer = toy_tokenizers.byte_level()
    first = schema.names[0]
    asked = {first: schema[first].steps()[1]}
    turns = (Turn(role="user", content="What ?"),)
    expected = vicuna.render(with_attributes(turns, schema, schema.complete(asked)), add_generation_prompt=True)
    messages = [turn.model_dump() for turn in turns]
    settings = {"chat_template": vicuna.jinja(schema), "tokenize": False, "add_generation_prompt": True}
    assert tokenizer.apply_chat_template(messages, attributes=asked, **settings) == expected
    assert f"{schema.steering_head}{schema[first].label}:{asked[first]:g}," in expected


def test_a_sweep_over_fractions_takes_five_steps():
    schema = SCHEMAS["fractions"]
    assert sweep_assignments(schema, {"made-up": 0.1}, ["clarity"]) == [
        {"clarity": value, "made-up": 0.1} for value in (0, 0.25, 0.5, 0.75, 1)
    ]
