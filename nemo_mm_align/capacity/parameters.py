"""Parameters of one rank: which part of each matrix it holds, and which of them are trained.

Shapes: H hidden, F feed-forward width, V vocabulary columns, R adapter rank; t tensor-parallel size.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_mm_align.capacity.job import TrainingJob
from nemo_mm_align.model.config import LlavaConfig


@dataclass(frozen=True)
class RankParameters:
    """Numbers of parameters that one rank of a stage holds, by part."""

    vision: int
    projector: int
    embedding: int
    decoder: int
    output: int
    adapters: int
    head: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.vision + self.projector + self.embedding + self.decoder + self.output + self.adapters + self.head

    def trained(self, job: TrainingJob) -> int:
        """Those that training changes."""
        count = self.adapters + self.head
        if job.trains_language:
            count += self.embedding + self.decoder + (self.output if job.reads.token_losses else 0)
        return count + (self.projector if job.train_projector else 0) + (self.vision if job.train_vision else 0)


def _vision(config: LlavaConfig, t: int) -> int:
    vision = config.vision
    width, ffn = vision.hidden_size, vision.ffn_hidden_size
    columns = 3 * width * (width + 1) + ffn * (width + 1)  # qkv and fc1: outputs split, with their biases
    rows = width * width + ffn * width  # proj and fc2: inputs split, biases whole
    layer = columns // t + rows // t + 2 * width + 4 * width
    embeddings = 3 * vision.patch_size**2 * width + (vision.tokens_per_image + 1) * width + width
    return vision.computed_layers * layer + embeddings + 2 * width


def _projector(config: LlavaConfig, t: int) -> int:
    hidden = config.language.hidden_size
    return (config.vision.hidden_size + 1) * hidden // t + hidden * hidden // t + hidden


def rank_parameters(job: TrainingJob, stage: int) -> RankParameters:
    """Count the parameters of one tensor-parallel rank of a pipeline stage (from 0)."""
    config, language, parallel = job.config, job.config.language, job.parallel
    t = parallel.tensor_model_parallel_size
    layers = config.layers_per_stage(parallel)
    first, last = stage == 0, stage == len(layers) - 1
    table = config.padded_vocab_size(t) // t * language.hidden_size
    tied_here = language.tie_word_embeddings and first  # one stage alone holds a tied matrix once
    layer = language.linear_parameters // t + 2 * language.hidden_size
    return RankParameters(
        vision=_vision(config, t) if first else 0,
        projector=_projector(config, t) if first else 0,
        embedding=table if first else 0,
        decoder=layers[stage] * layer + (language.hidden_size if last else 0),
        output=table if last and not tied_here else 0,
        adapters=layers[stage] * job.lora.layer_parameters(language, t) if job.lora else 0,
        head=job.outputs * language.hidden_size if last else 0,
    )
