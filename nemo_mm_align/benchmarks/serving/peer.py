"""transformers' LLaVA answering the same dialogues: batches with padding on the left, its cache, prompts ready as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_mm_align.benchmarks import peers
from nemo_mm_align.benchmarks.random_models import END_ID, IMAGE_ID
from nemo_mm_align.benchmarks.serving.questions import Dialogue, Picture
from nemo_mm_align.inference.loading import open_for_inference
from nemo_mm_align.model.config import ParallelConfig


class Peer:
    """A folder opened with transformers, fp32.

    Args:
        folder: whose prompts are made as the server makes them.
    """

    def __init__(self, folder: Path) -> None:
        self._opened = open_for_inference(folder, ParallelConfig(), "fp32")
        self._model: Any = peers.load_llava(folder).eval()
        self._pixels: dict[Picture, Tensor] = {}

    def prepare(self, dialogues: Sequence[Dialogue]) -> None:
        """Make tensors of pictures, which is not measured."""
        processor = self._opened.image_processor
        self._pixels = {one.picture: torch.from_numpy(processor(one.picture.image)) for one in dialogues}

    def answer(self, dialogues: Sequence[Dialogue], at_a_time: int, new_tokens: int) -> list[list[str]]:
        """Return each dialogue's answers, of so many tokens; so many dialogues are asked together, turn by turn."""
        found: list[list[str]] = [[] for _ in dialogues]
        for start in range(0, len(dialogues), at_a_time):
            batch, said = dialogues[start : start + at_a_time], found[start : start + at_a_time]
            pixels_NCHW = torch.stack([self._pixels[one.picture] for one in batch])
            for _ in batch[0].questions:
                prompts = [self._ids(one, answers) for one, answers in zip(batch, said, strict=True)]
                rows = peers.greedy(self._model, prompts, pixels_NCHW, new_tokens, END_ID)
                for answers, ids in zip(said, rows, strict=True):
                    answers.append(self._text(ids))
        return found

    def closest_choice(self, dialogue: Dialogue, answers: Sequence[str], turn: int, new_tokens: int) -> float:
        """Return the least distance of the best logit from the second best along the greedy answer to one turn.

        Where it is not more than rounding, another answer may be called the greedy one as well.
        """
        prompt = self._ids(dialogue, answers[:turn])
        pixels_NCHW = self._pixels[dialogue.picture][None]
        (answer,) = peers.greedy(self._model, [prompt], pixels_NCHW, new_tokens, END_ID)
        with torch.inference_mode():
            ids_BS = torch.tensor([[*prompt, *answer]])
            logits_SV = self._model(input_ids=ids_BS, pixel_values=pixels_NCHW).logits[0, len(prompt) - 1 : -1]
        logits_SV[:, IMAGE_ID] = -torch.inf  # never chosen
        best_S2 = logits_SV.topk(2).values
        return float((best_S2[:, 0] - best_S2[:, 1]).min())

    def _ids(self, dialogue: Dialogue, answers: Sequence[str]) -> list[int]:
        return self._opened.encoder.encode_prompt(dialogue.turns(answers), None, may_be_empty=True)

    def _text(self, ids: Sequence[int]) -> str:
        ended = ids[: ids.index(END_ID)] if END_ID in ids else ids
        text: str = self._opened.encoder.tokenizer.decode(ended, skip_special_tokens=True)
        return text.strip()
