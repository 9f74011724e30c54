"""The instructions that are asked, each with the baseline's answer."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from nemo_mm_align.core.errors import UserError, shorten
from nemo_mm_align.evaluation.alpaca.files import Output, read_outputs
from nemo_mm_align.schema.records import Decoding, Prompt, Turn


class InstructionSet:
    """A baseline's instructions, or a part of them.

    Args:
        task: name of the task, which prompt ids begin with.
        baseline: file with the baseline's answers.
        data: file with the instructions; None: all of the baseline's, in its order.
    """

    def __init__(self, task: str, baseline: Path, data: Path | None) -> None:
        self._task, self.baseline, self.data = task, baseline, data

    @cached_property
    def items(self) -> dict[str, Output]:
        """The baseline's answers by prompt id, in order, read once.

        Raises:
            UserError: an instruction has no answer, or stands twice.
        """
        known = read_outputs(self.baseline)
        wanted = known if self.data is None else read_outputs(self.data, needs_output=False)
        if missing := [instruction for instruction in wanted if instruction not in known]:
            raise UserError(
                f"{self.baseline}: no answer to {len(missing)} of {len(wanted)} instructions of {self.data}, for example "
                f"{shorten(missing[0], 80)!r}. Give a baseline that answers the whole set."
            )
        return {f"{self._task}-{place:04d}": known[instruction] for place, instruction in enumerate(wanted)}

    @cached_property
    def places(self) -> dict[str, int]:
        """Where each prompt stands in the set."""
        return {key: place for place, key in enumerate(self.items)}

    @cached_property
    def generator(self) -> str:
        """Who the baseline is."""
        names = dict.fromkeys(one.generator for one in self.items.values() if one.generator)
        return ", ".join(names) or self.baseline.stem

    def of(self, prompt: Prompt) -> Output:
        """Return the baseline's answer to a prompt; `UserError` for one that is none of this set's."""
        item = self.items.get(prompt.id)
        if item is None or item.instruction != prompt.turns[-1].content:
            raise UserError(
                f"task {self._task}: prompt {prompt.id} is none of its instructions. Give the prompts that it wrote."
            )
        return item

    def prompts(self, decoding: Decoding) -> list[Prompt]:
        """Return the instructions as prompts."""
        return [
            Prompt(
                id=key,
                turns=(Turn(role="user", content=one.instruction),),
                decoding=decoding,
                metadata={"source": one.dataset} if one.dataset else {},
            )
            for key, one in self.items.items()
        ]

    def answers(self, path: Path) -> dict[str, tuple[str, ...]]:
        """Return an outputs file's answers by prompt id; `UserError` where it answers nothing of this set."""
        found = read_outputs(path)
        answers: dict[str, tuple[str, ...]] = {
            key: (found[one.instruction].output,) for key, one in self.items.items() if one.instruction in found
        }
        if not answers:
            raise UserError(
                f"{path}: answers none of the {len(self.items)} instructions. Give outputs to the same set."
            )
        return answers
