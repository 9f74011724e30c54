"""How each prompt of a run is answered: by the run's settings or its own, once or as a dialogue; in which files of tasks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.repository import CONF
from nemo_mm_align.inference.asking import sort_requests
from nemo_mm_align.inference.own_decoding import warn_of_unused
from nemo_mm_align.inference.requests import EncodedPrompt, Request
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.inference.settings import InferenceSettings, register_open_attributes, settings_from_config
from nemo_mm_align.inference.task_files import settings_by_file, write_prompts
from nemo_mm_align.parallel.source import ModelSource, open_source
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Decoding, Prompt, Turn, read_records
from tests.tiny import tiny_llava

RUN = SamplingSettings(temperature=0.5, max_new_tokens=9)


def request(name: str, *follow_ups: str, decoding: Decoding | None = None) -> Request:
    turns = (Turn(role="user", content="w1"),)
    prompt = Prompt(id=name, turns=turns, follow_ups=follow_ups, decoding=decoding)
    return Request(prompt, None, EncodedPrompt(name, [1, 2]))


def test_each_prompt_is_answered_by_its_own_settings() -> None:
    cold, short = Decoding(temperature=0.0), Decoding(max_new_tokens=3)
    requests = [
        request("a"), request("b", decoding=cold), request("c", "more?", decoding=short), request("d", decoding=Decoding()),
        request("e", decoding=short), request("f", decoding=cold),
    ]  # fmt: skip
    asking = sort_requests(requests, RUN, rolls_out=True)
    greedy, brief = replace(RUN, temperature=0.0), replace(RUN, max_new_tokens=3)
    assert asking.questions == {0: RUN, 1: greedy, 3: RUN, 4: brief, 5: greedy}
    (dialogue,) = asking.dialogues.values()
    assert list(asking.dialogues) == [2] and dialogue.follow_ups == ("more?",) and dialogue.sampling.max_new_tokens == 3


@pytest.mark.parametrize(
    ("found", "sampling", "rolls_out", "text"),
    [
        (request("a", "more?"), RUN, False, "prompt 'a': has follow_ups, and sample is for single answers"),
        (request("a", "more?"), replace(RUN, num_samples=2), True, "prompt 'a': a dialogue has one answer"),
        (
            request("a", decoding=Decoding(temperature=0.0)),
            replace(RUN, num_samples=2),
            True,
            "num_samples=2 with temp",
        ),
        (request("a", decoding=Decoding(temperature=1e-9)), RUN, True, "prompt 'a': temperature=1e-09: must be 0"),
    ],
)
def test_what_does_not_go_together_is_said_with_its_prompt(found, sampling, rolls_out, text) -> None:
    with pytest.raises(UserError) as caught:
        sort_requests([found], sampling, rolls_out)
    assert text in str(caught.value)


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    return open_source(tiny_llava(tmp_path / "model"))


def settings(folder: Path, *words: str) -> InferenceSettings:
    register_open_attributes()
    tasks = "tasks={turns: {_target_: tests.own_task.OwnTask}, few: {_target_: tests.own_task.OwnTask, count: 1}}"
    given = [f"checkpoint={folder}/model", tasks, f"out={folder}/dpo", *words]
    with initialize_config_dir(str(CONF), version_base=None):
        return settings_from_config(OmegaConf.to_container(compose("generate", given), resolve=True))


def files_of(found: list[InferenceSettings], folder: Path) -> list[tuple[str, bool]]:
    return [(str(one.out and one.out.relative_to(folder)), one.asks) for one in found]


def test_a_model_that_can_be_asked_answers_with_and_without(
    tmp_path: Path, source: ModelSource, helpsteer: AttributeSchema
) -> None:
    plain = [("dpo/turns.jsonl", False), ("dpo/few.jsonl", False)]
    assert files_of(settings_by_file(settings(tmp_path), source), tmp_path) == plain
    steerable = replace(source, folder_schema=helpsteer)
    both = [
        ("dpo/turns.jsonl", True), ("dpo_unasked/turns.jsonl", False), ("dpo/few.jsonl", True), ("dpo_unasked/few.jsonl", False),
    ]  # fmt: skip
    for words, expected in (
        ((), both),
        (("attributes.verbosity=0",), both),
        (("sweep=[verbosity]",), [("dpo/turns.jsonl", True), ("dpo/few.jsonl", True)]),
        (("variants=asked",), [("dpo/turns.jsonl", True), ("dpo/few.jsonl", True)]),
        (("variants=unasked",), plain),
    ):
        found = settings_by_file(settings(tmp_path, *words), steerable)
        assert files_of(found, tmp_path) == expected, words
    asked = settings_by_file(settings(tmp_path, "attributes.verbosity=0"), steerable)
    assert [one.attributes for one in asked[:2]] == [{"verbosity": 0}, {}]
    with pytest.raises(UserError, match="variants=unasked, and attributes are asked for"):
        settings_by_file(settings(tmp_path, "variants=unasked", "attributes.verbosity=0"), steerable)


def test_prompts_of_a_task_are_written_once_and_kept(tmp_path: Path, source: ModelSource) -> None:
    given = settings(tmp_path)
    files = settings_by_file(given, source)
    write_prompts(given, files)
    found = list(read_records(tmp_path / "dpo/turns.prompts.jsonl", Prompt))
    assert [one.id for one in found] == ["own/0", "own/1", "own/2"] and found[0].follow_ups == ("w10 w11",)
    write_prompts(given, files)
    path = tmp_path / "dpo/few.prompts.jsonl"
    whole = path.read_text()
    path.write_text(whole.replace("w1 ", "w2 "))
    write_prompts(given, files)
    assert path.read_text() == whole, "nothing was answered yet"
    (tmp_path / "dpo/few.jsonl").touch()
    path.write_text(whole.replace("w1 ", "w2 "))
    with pytest.raises(
        UserError, match=r"few.prompts.jsonl: holds other prompts than the task few has now.*few\.jsonl"
    ):
        write_prompts(given, files)


def test_a_task_without_prompts_says_so(tmp_path: Path, source: ModelSource) -> None:
    given = settings(tmp_path).model_copy(update={"tasks": {"miniature": {}}})
    with pytest.raises(UserError, match="tasks.miniature: brings no prompts of its own"):
        write_prompts(given, settings_by_file(given, source))


def test_a_schema_in_the_folder_makes_it_steerable(
    tmp_path: Path, source: ModelSource, helpsteer: AttributeSchema
) -> None:
    path = source.folder / "config.json"
    stored = json.loads(path.read_text()) | {"attribute_schema": helpsteer.model_dump(mode="json")}
    path.write_text(json.dumps(stored))
    assert len(settings_by_file(settings(tmp_path), open_source(source.folder))) == 4


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Words of a command line, as they stand in a command that runs."""

    def type_in(*words: str) -> None:
        with initialize_config_dir(str(CONF), version_base=None):
            HydraConfig.instance().set_config(compose("generate", list(words), return_hydra_config=True))

    yield type_in
    HydraConfig.instance().cfg = None


def test_typed_settings_that_a_tasks_own_take_the_place_of_are_said(
    tmp_path: Path, source: ModelSource, caplog: pytest.LogCaptureFixture, typed: Callable[..., None]
) -> None:
    given = settings(tmp_path, "max_new_tokens=99", "temperature=0.5")
    write_prompts(given, settings_by_file(given, source))
    assert not caplog.records, "nobody typed them"
    pope = {"_target_": "tests.own_task.OwnTask", "max_new_tokens": None}
    typed("max_new_tokens=99", "temperature=0.5")
    write_prompts(given, settings_by_file(given, source))
    said = [record.message for record in caplog.records]
    assert said[:2] == [
        "temperature=0.5: not for 3 of 3 prompts of the task turns, which bring their own (0 to 0.7); the task prescribes it",
        "max_new_tokens=99: not for 3 of 3 prompts of the task turns, which bring their own (6); the task prescribes it",
    ]
    warn_of_unused("own", pope, [request("a", decoding=Decoding(max_new_tokens=3)).prompt], RUN, ("max_new_tokens",))
    assert caplog.records[-1].message.endswith(
        "1 of 1 prompts of the task own, which bring their own (3); set it by 'tasks={own: {max_new_tokens: ...}}'"
    )


def test_what_bounds_an_answer_is_named_where_the_model_has_too_few_positions(
    tmp_path: Path, source: ModelSource
) -> None:
    encoder = settings(tmp_path).open().encoder
    long = Decoding(max_new_tokens=100_000)
    for found, task, limit in (
        (request("a"), "own", "max_new_tokens"),
        (request("a", decoding=long), "own", r"tasks.own.max_new_tokens \('tasks={own: {max_new_tokens: ...}}'\)"),
        (request("a", decoding=long), None, "decoding.max_new_tokens of these prompts"),
        (
            request("a", "w2", decoding=long),
            "own",
            r"tasks.own.max_new_tokens \('tasks={own: {max_new_tokens: ...}}'\)",
        ),
    ):
        run = replace(RUN, max_new_tokens=RUN.max_new_tokens if found.prompt.decoding else 100_000)
        with pytest.raises(UserError, match=rf"The model has 128 positions: lower {limit}, or "):
            sort_requests([found], run, rolls_out=True).check(encoder, 128, task)
