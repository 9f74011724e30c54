"""A miniature LLaVA with random weights as a Hugging Face folder: where the base starts.

python -m nemo_mm_align.miniature.blank OUT '{"language": {...}, "vision": {...}, "image_token_id": 4}' SEED
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.miniature.tokenizer import build_tokenizer
from nemo_mm_align.model.config import EngineConfig, LlavaConfig, ParallelConfig
from nemo_mm_align.model.huggingface_export import Companions, export_huggingface
from nemo_mm_align.model.huggingface_origin import Origin
from nemo_mm_align.model.llava import Llava, build_llava
from nemo_mm_align.parallel import runtime
from nemo_mm_align.schema.images import ImageProcessor

_SPREAD = 0.05
_HALF = (0.5, 0.5, 0.5)


def make_blank(out: str | Path, config: LlavaConfig, seed: int) -> None:
    """Write a randomly initialised model with the miniature's tokenizer and image processor to the folder `out`.

    Raises:
        UserError: the vocabulary is not the tokenizer's.
    """
    tokenizer = build_tokenizer()
    if config.language.vocab_size != len(tokenizer):
        raise UserError(
            f"model.language.vocab_size={config.language.vocab_size}, but the miniature has {len(tokenizer)} words. Set it "
            "in conf/model/mini.yaml."
        )
    parallel, engine = ParallelConfig(), EngineConfig(seed=seed)
    runtime.initialize(parallel, seed)
    model = build_llava(config, parallel, engine)
    _draw(model, seed)
    processor = ImageProcessor(image_size=config.vision.image_size, mean=_HALF, std=_HALF)
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = tuple(path for path in Path(folder).iterdir() if path.is_file())
        origin = Origin.of_config(config, torch.float32, files)
        generation = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        export_huggingface(model, out, origin, companions=Companions(None, processor.to_hf(), generation))
    runtime.shutdown()


def _draw(model: Llava, seed: int) -> None:
    """Matrices with a spread that suits a width of 128 (megatron-core's default of 0.02 learns slowly here)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * _SPREAD)
            elif name.endswith("bias"):
                parameter.zero_()


if __name__ == "__main__":
    make_blank(sys.argv[1], LlavaConfig.from_dict(json.loads(sys.argv[2])), int(sys.argv[3]))
