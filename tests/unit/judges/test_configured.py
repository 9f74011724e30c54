"""Judges as configurations make them: addresses, shipped groups, keys of earlier ledgers, batches."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pydantic import ValidationError

from nemo_mm_align.core.configuration import read as read_settings
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.items import LabelContext
from nemo_mm_align.labeling.judge import CountsTokens, price_of
from nemo_mm_align.labeling.judges.rubric_judge import RubricJudge
from nemo_mm_align.labeling.registry import build_judge
from nemo_mm_align.labeling.stage import LabelSettings
from nemo_mm_align.llm.clients.openai_compatible import OpenAICompatible
from nemo_mm_align.llm.question import Question
from nemo_mm_align.schema.attributes import AttributeSchema
from tests.judge_server import judge_server
from tests.unit.judges.services import anthropic


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("htps://x", "is no address"),
        ("127.0.0.1:8080", "is no address"),
        ("http://me:secret@x", "a password"),
        ("http://x?token=abc", "a query"),
    ],
)
def test_addresses_are_checked_and_keep_no_secret(address: str, problem: str) -> None:
    for make in (anthropic, lambda address: RubricJudge(OpenAICompatible(address, "m"))):
        with pytest.raises(UserError, match=problem) as caught:
            make(address)
        assert "secret" not in str(caught.value) and "abc" not in str(caught.value)
    with judge_server() as server:
        assert anthropic(f"{server.address}/v1").client._base_url == server.address


def configuration(repository: Path, *overrides: str) -> dict:
    """What scripts/label.py is given with these overrides."""
    paths = ["prompts=p.jsonl", "candidates=c.jsonl", "out=o.jsonl"]
    with initialize_config_dir(str(repository / "conf"), version_base=None):
        config = compose("label", overrides=[*paths, *overrides])
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


@pytest.mark.parametrize(
    "overrides",
    [
        ("judge=gemini",),
        ("judge=google_genai", "judge.thinking_budget=0"),
        ("judge=openai_compatible", "judge.base_url=http://x/v1", "judge.model=m", "judge.extra_body={top_k: 1}"),
        ("judge=anthropic", "judge.model=m"),
        ("judge=human", "judge.annotator=anna"),
    ],
    ids=lambda overrides: overrides[0],
)
def test_shipped_groups_make_their_judge(overrides, repository: Path, helpsteer: AttributeSchema) -> None:
    judge = build_judge(configuration(repository, *overrides)["judge"], helpsteer)
    assert price_of(judge) is None and judge.settings
    if overrides[0] != "judge=human":
        prices = ("judge.price.input_per_million=0.5", "judge.price.output_per_million=2")
        price = price_of(build_judge(configuration(repository, *overrides, *prices)["judge"], helpsteer))
        assert price is not None and price.cost(1e6, 1e6) == 2.5
        with pytest.raises(ValidationError, match="output_per_million"):
            build_judge(configuration(repository, *overrides, prices[0])["judge"], helpsteer)


@pytest.mark.parametrize(
    "overrides",
    [
        ("judge=gemini",),
        ("judge=google_genai",),
        ("judge=openai_compatible", "judge.base_url=http://x/v1", "judge.model=m"),
        ("judge=anthropic", "judge.model=m"),
    ],
    ids=lambda overrides: overrides[0],
)
def test_only_who_is_asked_needs_a_key(overrides, repository: Path, helpsteer: AttributeSchema, monkeypatch) -> None:
    config = configuration(repository, *overrides)["judge"]
    with_key = build_judge(config, helpsteer)
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    estimating = build_judge(config, helpsteer, asks=False)
    assert estimating.settings == with_key.settings, "the same ledger"
    client = estimating.client
    assert not isinstance(client, CountsTokens) or client.count_tokens(Question("You count.", ("One",))) is None
    with pytest.raises(UserError, match="no API key for"):
        build_judge(config, helpsteer)
    with pytest.raises(UserError, match="judge.api_key_file=/nowhere cannot be read"):
        build_judge(config | {"api_key_file": "/nowhere"}, helpsteer, asks=False)


LEDGER_KEYS = {
    "6ab5a689616d3b03d9a3fc81f1184c6c": ("judge=gemini",),
    "46e778a124e9b93beecc1b23b84a5aa6": ("judge=google_genai", "judge.thinking_budget=3"),
    "26a00d9d8b6b240d069a3f0f4f170f38": (
        "judge=openai_compatible",
        "judge.base_url=http://x/v1",
        "judge.model=m",
        "judge.extra_body={top_k: 1}",
    ),
}
"""What commit 1a72c78 of November 2026 kept judgements under, of the shipped groups with the default schema."""


@pytest.mark.parametrize(("fingerprint", "overrides"), LEDGER_KEYS.items(), ids=lambda value: value[0][6:])
def test_earlier_ledgers_stay_valid(fingerprint: str, overrides, repository: Path) -> None:
    config = configuration(repository, *overrides)
    schema = AttributeSchema.model_validate(config["attribute_schema"])
    assert LabelContext(build_judge(config["judge"], schema), schema, want_reference=True).fingerprint == fingerprint


@pytest.mark.parametrize(
    ("override", "write", "read"),
    [
        ("batch.write=r.jsonl", Path("r.jsonl"), ()),
        ("batch.read=a.jsonl", None, (Path("a.jsonl"),)),
        ("batch.read=[a.jsonl,b.jsonl]", None, (Path("a.jsonl"), Path("b.jsonl"))),
    ],
)
def test_batches_are_asked_for_on_the_command_line(override, write, read, repository: Path) -> None:
    config = configuration(repository, override)
    settings = read_settings(LabelSettings, {name: value for name, value in config.items() if name != "judge"})
    assert (settings.batch.write, settings.batch.read) == (write, read)
