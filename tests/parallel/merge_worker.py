"""One rank of test_merged_adapters.py: a LoRA checkpoint's logits with its adapters apart and merged, in each layout."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_mm_align.inference.loading import OpenedModel, open_for_inference
from nemo_mm_align.inference.stage import DecodingStage
from nemo_mm_align.model.config import ParallelConfig
from nemo_mm_align.model.llava import Llava, count_parameters
from nemo_mm_align.parallel import runtime
from tests.parallel.each_layout import in_each_layout

LAYOUTS = {"dp2": ParallelConfig(), "tp2": ParallelConfig(2), "pp2": ParallelConfig(1, 2)}


@torch.inference_mode()
def logits(opened: OpenedModel, merge: Any) -> tuple[Tensor, Llava]:
    """Logits [2, V / TP] of a prompt and the step behind it, zeros where this rank has none."""
    model = opened.generator(1000, merge_adapters=merge).model.eval()
    stage, row = DecodingStage(model, 1, 10), torch.zeros(1, dtype=torch.int64)
    words = [word for word in range(5, 15) if word != opened.source.config.image_token_id]
    ids = torch.tensor([words[:9]])
    first = stage.prefill(ids, row + 8, row, row)
    second = stage.step(ids[:, 2:3], torch.tensor([[9]]), None, 9, 10)
    if first is None or second is None:
        return torch.zeros(2, 1), model
    both = torch.cat([first, second])
    return both.nan_to_num(neginf=0.0), model


def measure(folder: Path, parallel: ParallelConfig) -> dict[str, Any]:
    opened = open_for_inference(folder, parallel, "fp32")
    apart, unmerged = logits(opened, False)
    together, merged = logits(opened, "auto")
    error = ((together - apart).norm() / apart.norm()).unsqueeze(0)
    runtime.broadcast_from_last_stage(error)
    left = [name for name, _ in merged.named_parameters() if "adapters" in name]
    return {
        "error": float(error),
        "freed": count_parameters(unmerged) - count_parameters(merged),
        "left": left,
    }


if __name__ == "__main__":
    in_each_layout(LAYOUTS, measure, Path(sys.argv[1]), Path(sys.argv[2]))
