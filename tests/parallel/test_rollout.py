"""Dialogues in one process: what is refused, what ends one of them, stop texts; other layouts are in test_decoding.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.inference.generator import Generator
from nemo_mm_align.inference.loading import open_for_inference
from nemo_mm_align.inference.rollout import Dialogue, roll_out
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.model.config import ParallelConfig
from nemo_mm_align.parallel import runtime
from nemo_mm_align.schema.records import Candidate, Prompt, Turn
from tests.decoding_model import GREEDY, TEMPLATE, make_folder

pytestmark = pytest.mark.parallel


@pytest.fixture
def generator(tmp_path: Path) -> Generator:
    opened = open_for_inference(make_folder(tmp_path / "model"), ParallelConfig(), "fp32", TEMPLATE)
    runtime.initialize(opened.parallel, 0)
    return opened.generator(max_batch_tokens=500)


def dialogue(number: int, *follow_ups: str, sampling: SamplingSettings = GREEDY) -> Dialogue:
    turn = Turn(role="user", content=f"w{number} w{number + 1}")
    return Dialogue(Prompt(id=f"d{number}", turns=(turn,)), follow_ups, sampling)


def test_a_dialogue_that_cannot_go_on_ends_with_what_it_has(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [dialogue(number, "w7", "w8") for number in range(4)]
    whole = roll_out(generator, asked, progress=False)
    assert [len(rolled.answers) for rolled in whole] == [3] * 4 and not any(rolled.fault for rolled in whole)
    spelled = whole[2].answers[1].text
    real = Generator.candidate

    def candidate(self: Generator, answer: object) -> Candidate:
        found = real(self, answer)  # type: ignore[arg-type]
        return found.model_copy(update={"text": "</s>"}) if found.text == spelled else found

    monkeypatch.setattr(Generator, "candidate", candidate)
    found = roll_out(generator, asked, progress=False)
    assert [rolled for place, rolled in enumerate(found) if place != 2] == [*whole[:2], whole[3]]
    assert len(found[2].answers) == 2 and found[2].answers[0] == whole[2].answers[0]
    assert found[2].fault.startswith("dialogue 'd2', question 3: ") and "</s>" in found[2].fault


def test_what_cannot_be_asked_is_refused_before_anything_is_generated(generator: Generator) -> None:
    long = replace(GREEDY, max_new_tokens=generator.model.model_config.language.max_position_embeddings // 2)
    with pytest.raises(
        UserError, match=r"1 faults.*\n  dialogue 'd1': \d+ tokens, its answers' at most included\n.*lower"
    ):
        roll_out(generator, [dialogue(0), dialogue(1, "w2", sampling=long)], progress=False)
    with pytest.raises(UserError, match="dialogue 'd1': .*</s>"):
        roll_out(generator, [dialogue(0), dialogue(1, "w2 </s>")], progress=False)
    with pytest.raises(UserError, match="there is no attribute schema"):
        roll_out(generator, [replace(dialogue(0), attributes={"depth": 1})], progress=False)
    with pytest.raises(UserError, match="set num_samples=1"):
        dialogue(0, sampling=SamplingSettings(num_samples=2))
    assert roll_out(generator, [], progress=False) == []


def test_a_stop_text_ends_an_answer_before_it(generator: Generator) -> None:
    prompt = dialogue(0).prompt
    (plain,) = generator.generate([prompt], GREEDY, progress=False)
    words = plain.candidates[0].text.split()
    place = next(place for place in range(3, len(words)) if words[place] not in words[:place])
    settings = replace(GREEDY, stop=(words[place],))
    (stopped,) = generator.generate([prompt], settings, progress=False)
    expected = Candidate(text=" ".join(words[:place]), finish_reason="stop", num_tokens=place + 1)
    assert stopped.candidates == (expected,)
    assert stopped.sampling["stop"] == [words[place]] and "stop" not in plain.sampling
