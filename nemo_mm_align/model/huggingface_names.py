"""Where each Hugging Face tensor lives in this engine: pipeline stage, parameter, part of a fused one, TP split.

One table serves import, export, adapters and gradients. Names are those of transformers' modules; files that older
versions wrote are mapped to them by `canonical_name`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from nemo_mm_align.model.config import LlavaConfig, LoRAConfig, ParallelConfig
from nemo_mm_align.model.head_config import HeadConfig

EMBEDDING = "model.language_model.embed_tokens.weight"
OUTPUT = "lm_head.weight"
HEAD = "score.weight"
PROJECTOR = "model.multi_modal_projector"
_TOWER = "model.vision_tower.vision_model"
_OLD_PREFIXES = (
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("language_model.score.", "score."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
)
_LINEAR = {  # adapter name: (Hugging Face, this engine)
    "q": ("self_attn.q_proj", "self_attention.linear_qkv"),
    "k": ("self_attn.k_proj", "self_attention.linear_qkv"),
    "v": ("self_attn.v_proj", "self_attention.linear_qkv"),
    "o": ("self_attn.o_proj", "self_attention.linear_proj"),
    "gate": ("mlp.gate_proj", "mlp.linear_fc1"),
    "up": ("mlp.up_proj", "mlp.linear_fc1"),
    "down": ("mlp.down_proj", "mlp.linear_fc2"),
}


def canonical_name(key: str) -> str:
    """Return transformers' present module name of a tensor in a file, whichever version wrote it."""
    for old, new in _OLD_PREFIXES:
        if key.startswith(old):
            key = new + key.removeprefix(old)
            break
    return re.sub(r"^model\.vision_tower\.(?!vision_model\.)", f"{_TOWER}.", key)


def file_name(name: str) -> str:
    """Return the key that transformers 4 writes for a module name (5 and vLLM read it as well)."""
    for old, new in _OLD_PREFIXES:
        if name.startswith(new):
            return old + name.removeprefix(new)
    return name


def _whole(parameter: Tensor) -> Tensor:
    return parameter


def _from_qkv(parameter: Tensor, which: str, queries_per_group: int, width: int) -> Tensor:
    """View of q, k or v in megatron-core's fused layer: for each key/value head its query heads, its key, its value."""
    heads = parameter.unflatten(0, (-1, queries_per_group + 2, width))
    if which == "q":
        return heads[:, :queries_per_group]
    return heads[:, queries_per_group + (which == "v")]


def _half(parameter: Tensor, which: int) -> Tensor:
    return parameter.unflatten(0, (2, -1))[which]


@dataclass(frozen=True)
class Piece:
    """One Hugging Face tensor.

    Args:
        name: transformers' module name.
        shape: of the whole tensor.
        stage: pipeline stage that holds it.
        parameter: name of the parameter in that stage's `Llava`.
        split: dimension spread over tensor-parallel ranks, None where each holds all of it.
        part: view of the tensor's own elements in the (fused) parameter; its elements in order are the tensor's.
        adapter: name of the LoRA adapter module that changes it, if the model has one.
    """

    name: str
    shape: tuple[int, ...]
    stage: int
    parameter: str
    split: int | None = None
    part: Callable[[Tensor], Tensor] = _whole
    adapter: str | None = None

    def bounds(self, rank: int, size: int) -> tuple[int, int]:
        """First and last + 1 index along `split` that TP rank `rank` of `size` holds (padding not counted)."""
        assert self.split is not None
        whole = self.shape[self.split]
        share = -(-whole // size)
        return min(rank * share, whole), min((rank + 1) * share, whole)

    def local_shape(self, rank: int, size: int) -> tuple[int, ...]:
        """Shape of what TP rank `rank` of `size` holds."""
        if self.split is None:
            return self.shape
        start, stop = self.bounds(rank, size)
        return (*self.shape[: self.split], stop - start, *self.shape[self.split + 1 :])

    def of(self, parameter: Tensor, rank: int, size: int) -> Tensor:
        """View of this tensor's elements in a rank's parameter (or in its gradient), without vocabulary padding."""
        view = self.part(parameter)
        rows = self.local_shape(rank, size)[0] if self.split == 0 and self.part is _whole else None
        return view if rows is None else view[:rows]


def weight_pieces(config: LlavaConfig, parallel: ParallelConfig) -> list[Piece]:
    """Every tensor that takes part in the computation, in the order of the stages.

    With tied embeddings over several stages the embedding stands twice, second as the last stage's output layer.
    """
    pieces = [*_vision_pieces(config), *_projector_pieces(config)]
    vocabulary = (config.language.vocab_size, config.language.hidden_size)
    embedding = "language_model.embedding.word_embeddings.weight"
    pieces.append(Piece(EMBEDDING, vocabulary, 0, embedding, 0))
    for layer, stage, local in layer_places(config, parallel):
        pieces += _decoder_layer_pieces(config, layer, stage, f"language_model.decoder.layers.{local}")
    last = parallel.pipeline_model_parallel_size - 1
    hidden = (config.language.hidden_size,)
    pieces.append(
        Piece("model.language_model.norm.weight", hidden, last, "language_model.decoder.final_layernorm.weight")
    )
    if not config.language.tie_word_embeddings:
        pieces.append(Piece(OUTPUT, vocabulary, last, "language_model.output_layer.weight", 0))
    elif last > 0:
        pieces.append(Piece(EMBEDDING, vocabulary, last, "language_model.output_layer.weight", 0))
    return pieces


def head_piece(config: LlavaConfig, head: HeadConfig, parallel: ParallelConfig) -> Piece:
    """The weight of a head on top of the last stage's hidden states; each tensor-parallel rank holds all of it."""
    shape = (len(head.outputs), config.language.hidden_size)
    return Piece(HEAD, shape, parallel.pipeline_model_parallel_size - 1, "head.score.weight")


def uncomputed_vision_shapes(config: LlavaConfig) -> dict[str, tuple[int, ...]]:
    """Tensors of a LLaVA that nobody computes: CLIP layers above the feature layer, the final layer norm."""
    layers = range(config.vision.computed_layers, config.vision.num_layers)
    shapes = {piece.name: piece.shape for layer in layers for piece in _vision_layer_pieces(config, layer)}
    return shapes | {f"{_TOWER}.post_layernorm.{kind}": (config.vision.hidden_size,) for kind in ("weight", "bias")}


def adapter_pieces(config: LlavaConfig, parallel: ParallelConfig, lora: LoRAConfig) -> list[Piece]:
    """Every LoRA matrix under PEFT's name without its outer prefix: ``<module>.lora_A.weight`` and ``...lora_B...``."""
    pieces = []
    for layer, stage, local in layer_places(config, parallel):
        for target, (shape, split) in _linear_shapes(config).items():
            if target not in lora.targets:
                continue
            theirs, ours = _LINEAR[target]
            name = f"model.language_model.layers.{layer}.{theirs}"
            adapter = f"language_model.decoder.layers.{local}.{ours}.adapters.{target}"
            a, b = (lora.rank, shape[1]), (shape[0], lora.rank)
            pieces.append(Piece(f"{name}.lora_A.weight", a, stage, f"{adapter}.a", 1 if split == 1 else None))
            pieces.append(Piece(f"{name}.lora_B.weight", b, stage, f"{adapter}.b", 0 if split == 0 else None))
    return pieces


def module_of(target: str) -> str:
    """Name within a decoder layer of the module that an adapter changes: q -> ``self_attn.q_proj``."""
    return _LINEAR[target][0]


def adapter_module_pattern(lora: LoRAConfig) -> str:
    """Regular expression of the modules that carry adapters, for PEFT's ``target_modules``."""
    modules = "|".join(re.escape(module_of(target)) for target in lora.targets)
    return rf".*language_model\.layers\.\d+\.({modules})"


def layer_places(config: LlavaConfig, parallel: ParallelConfig) -> Iterator[tuple[int, int, int]]:
    """Yield (decoder layer, its pipeline stage, its index there)."""
    layer = 0
    for stage, count in enumerate(config.layers_per_stage(parallel)):
        for local in range(count):
            yield layer, stage, local
            layer += 1


def _linear_shapes(config: LlavaConfig) -> dict[str, tuple[tuple[int, int], int]]:
    """Whole [outputs, inputs] and split dimension of each linear layer of the decoder."""
    language = config.language
    hidden, ffn = language.hidden_size, language.ffn_hidden_size
    queries, keys = language.num_attention_heads * language.kv_channels, language.groups * language.kv_channels
    return {
        "q": ((queries, hidden), 0), "k": ((keys, hidden), 0), "v": ((keys, hidden), 0), "o": ((hidden, queries), 1),
        "gate": ((ffn, hidden), 0), "up": ((ffn, hidden), 0), "down": ((hidden, ffn), 1),
    }  # fmt: skip


def _decoder_layer_pieces(config: LlavaConfig, layer: int, stage: int, ours: str) -> list[Piece]:
    language = config.language
    theirs = f"model.language_model.layers.{layer}"
    qkv = partial(
        _from_qkv, queries_per_group=language.num_attention_heads // language.groups, width=language.kv_channels
    )
    parts = {name: partial(qkv, which=name) for name in "qkv"}
    parts |= {"gate": partial(_half, which=0), "up": partial(_half, which=1)}
    norms = (("input_layernorm", "input_layernorm"), ("post_attention_layernorm", "pre_mlp_layernorm"))
    pieces = [
        Piece(f"{theirs}.{name}.weight", (language.hidden_size,), stage, f"{ours}.{norm}.weight")
        for name, norm in norms
    ]
    for target, (shape, split) in _linear_shapes(config).items():
        name, module = _LINEAR[target]
        adapter = f"{ours}.{module}.adapters.{target}"
        part = parts.get(target, _whole)
        pieces.append(Piece(f"{theirs}.{name}.weight", shape, stage, f"{ours}.{module}.weight", split, part, adapter))
    return pieces


def _projector_pieces(config: LlavaConfig) -> Iterator[Piece]:
    theirs, ours = PROJECTOR, "projector.encoder"
    hidden, features = config.language.hidden_size, config.vision.hidden_size
    yield Piece(f"{theirs}.linear_1.weight", (hidden, features), 0, f"{ours}.linear_fc1.weight", 0)
    yield Piece(f"{theirs}.linear_1.bias", (hidden,), 0, f"{ours}.linear_fc1.bias", 0)
    yield Piece(f"{theirs}.linear_2.weight", (hidden, hidden), 0, f"{ours}.linear_fc2.weight", 1)
    yield Piece(f"{theirs}.linear_2.bias", (hidden,), 0, f"{ours}.linear_fc2.bias")


def _vision_pieces(config: LlavaConfig) -> Iterator[Piece]:
    vision = config.vision
    hidden, patch = vision.hidden_size, vision.patch_size
    yield Piece(f"{_TOWER}.embeddings.class_embedding", (hidden,), 0, "vision_tower.class_token")
    shape = (hidden, 3, patch, patch)
    yield Piece(f"{_TOWER}.embeddings.patch_embedding.weight", shape, 0, "vision_tower.conv1.weight")
    positions = (vision.tokens_per_image + 1, hidden)
    name = f"{_TOWER}.embeddings.position_embedding.weight"
    yield Piece(name, positions, 0, "vision_tower.position_embeddings.weight")
    for kind in ("weight", "bias"):
        yield Piece(f"{_TOWER}.pre_layrnorm.{kind}", (hidden,), 0, f"vision_tower.ln_pre.{kind}")
    for layer in range(vision.computed_layers):
        yield from _vision_layer_pieces(config, layer)


def _vision_layer_pieces(config: LlavaConfig, layer: int) -> Iterator[Piece]:
    vision = config.vision
    hidden, ffn = vision.hidden_size, vision.ffn_hidden_size
    theirs, ours = f"{_TOWER}.encoder.layers.{layer}", f"vision_tower.decoder.layers.{layer}"
    qkv = partial(_from_qkv, queries_per_group=1, width=hidden // vision.num_attention_heads)
    for name, norm in (("layer_norm1", "input_layernorm"), ("layer_norm2", "pre_mlp_layernorm")):
        for kind in ("weight", "bias"):
            yield Piece(f"{theirs}.{name}.{kind}", (hidden,), 0, f"{ours}.{norm}.{kind}")
    for which in "qkv":
        for kind, shape in (("weight", (hidden, hidden)), ("bias", (hidden,))):
            parameter = f"{ours}.self_attention.linear_qkv.{kind}"
            yield Piece(f"{theirs}.self_attn.{which}_proj.{kind}", shape, 0, parameter, 0, partial(qkv, which=which))
    yield Piece(
        f"{theirs}.self_attn.out_proj.weight", (hidden, hidden), 0, f"{ours}.self_attention.linear_proj.weight", 1
    )
    yield Piece(f"{theirs}.self_attn.out_proj.bias", (hidden,), 0, f"{ours}.self_attention.linear_proj.bias")
    yield Piece(f"{theirs}.mlp.fc1.weight", (ffn, hidden), 0, f"{ours}.mlp.linear_fc1.weight", 0)
    yield Piece(f"{theirs}.mlp.fc1.bias", (ffn,), 0, f"{ours}.mlp.linear_fc1.bias", 0)
    yield Piece(f"{theirs}.mlp.fc2.weight", (hidden, ffn), 0, f"{ours}.mlp.linear_fc2.weight", 1)
    yield Piece(f"{theirs}.mlp.fc2.bias", (hidden,), 0, f"{ours}.mlp.linear_fc2.bias")
