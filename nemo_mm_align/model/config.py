"""Typed configuration of a LLaVA: sizes, parallel layout, and the arithmetic that needs neither torch nor a GPU.

Everything here can be checked on a login node: parameter counts, divisibility, layers per pipeline stage.
Errors name the YAML field and the remedy.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import ConfigDict, Field

from nemo_mm_align.core.configuration import STRICT, Count, Positive, read
from nemo_mm_align.core.errors import UserError

Precision = Literal["fp32", "bf16", "fp8_delayed", "fp8_tensorwise", "fp8_blockwise"]
TransformerImpl = Literal["auto", "local", "transformer_engine"]
Recompute = Literal["none", "selective", "full"]


@dataclass(frozen=True)
class LanguageConfig:
    """A Llama-type decoder: RMSNorm, rotary positions, SwiGLU, grouped-query attention, no biases."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    num_layers: Count
    hidden_size: Count
    ffn_hidden_size: Count
    num_attention_heads: Count
    vocab_size: Count
    num_query_groups: Count | None = None
    head_dim: Count | None = None
    max_position_embeddings: Count = 4096
    rotary_base: Positive = 10000.0
    rms_norm_eps: Positive = 1e-5
    tie_word_embeddings: bool = False

    @property
    def groups(self) -> int:
        """Key/value heads."""
        return self.num_query_groups or self.num_attention_heads

    @property
    def kv_channels(self) -> int:
        """Width of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def query_width(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.kv_channels

    @property
    def key_width(self) -> int:
        """Width of all key heads together."""
        return self.groups * self.kv_channels

    @property
    def linear_parameters(self) -> int:
        """Weights of the linear layers of one decoder layer."""
        attention = self.hidden_size * (2 * self.query_width + 2 * self.key_width)
        return attention + 3 * self.hidden_size * self.ffn_hidden_size

    def num_parameters(self) -> int:
        """Parameters of the decoder with embedding and output layer (a tied one counted once), without TP padding."""
        layer = self.linear_parameters + 2 * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return self.num_layers * layer + self.hidden_size + embeddings


@dataclass(frozen=True)
class VisionConfig:
    """A CLIP vision tower without its class token. `feature_layer` counts Hugging Face hidden states from the end."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    num_layers: Count
    hidden_size: Count
    ffn_hidden_size: Count
    num_attention_heads: Count
    image_size: Count
    patch_size: Count
    feature_layer: int = -2
    layer_norm_eps: Positive = 1e-5

    @property
    def computed_layers(self) -> int:
        """Layers that run: those up to the feature layer (LLaVA-1.5: 23 of 24)."""
        return self.num_layers + 1 + self.feature_layer

    @property
    def tokens_per_image(self) -> int:
        """Embeddings that one image becomes: one per patch (LLaVA-1.5: 576)."""
        return (self.image_size // self.patch_size) ** 2

    def num_parameters(self) -> int:
        """Parameters of the layers that run, with patch, class and position embeddings."""
        layer = 4 * self.hidden_size * (self.hidden_size + 1)
        layer += 2 * self.hidden_size * self.ffn_hidden_size + self.ffn_hidden_size + self.hidden_size
        layer += 4 * self.hidden_size
        patches = 3 * self.patch_size**2 * self.hidden_size
        positions = (self.tokens_per_image + 1) * self.hidden_size
        return self.computed_layers * layer + patches + positions + self.hidden_size + 2 * self.hidden_size


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adapters on every linear layer of the language model (Hu et al., arXiv 2106.09685).

    Separate adapters for q, k, v, o, gate, up and down, as in the paper's code, although megatron-core fuses them.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    rank: Count = 128
    alpha: Count | Positive = 256
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    targets: tuple[str, ...] = ("q", "k", "v", "o", "gate", "up", "down")

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))
        unknown = set(self.targets) - {"q", "k", "v", "o", "gate", "up", "down"}
        if unknown or not self.targets:
            found = sorted(unknown) or "empty"
            raise UserError(f"model.lora.targets: {found}; choose from q, k, v, o, gate, up, down.")
        if self.rank < 1:
            raise UserError(f"model.lora.rank={self.rank}: must be at least 1 (model.lora=null is without adapters).")

    @property
    def scale(self) -> float:
        """Factor on the adapters' output."""
        return self.alpha / self.rank

    def layer_parameters(self, language: LanguageConfig, tensor_model_parallel_size: int = 1) -> int:
        """Parameters of one decoder layer's adapters on one rank: A whole and B split by columns, or A split and B whole."""
        size, hidden = tensor_model_parallel_size, language.hidden_size
        queries, keys, ffn = language.query_width // size, language.key_width // size, language.ffn_hidden_size // size
        widths = {
            "q": hidden + queries, "k": hidden + keys, "v": hidden + keys, "o": queries + hidden,
            "gate": hidden + ffn, "up": hidden + ffn, "down": ffn + hidden,
        }  # fmt: skip
        return self.rank * sum(widths[target] for target in self.targets)

    def num_parameters(self, language: LanguageConfig) -> int:
        """Parameters of all adapters (LLaVA-1.5-13B at rank 128: 500,695,040)."""
        return language.num_layers * self.layer_parameters(language)


@dataclass(frozen=True)
class ParallelConfig:
    """How the model is spread over ranks; names as in NeMo's YAML."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    tensor_model_parallel_size: Count = 1
    pipeline_model_parallel_size: Count = 1
    sequence_parallel: bool = False
    num_layers_in_first_pipeline_stage: Count | None = None
    num_layers_in_last_pipeline_stage: Count | None = None

    def data_parallel_size(self, world_size: int) -> int:
        """Replicas of the model on `world_size` ranks; raise `UserError` where it does not divide."""
        tensor, pipeline = self.tensor_model_parallel_size, self.pipeline_model_parallel_size
        if tensor < 1 or pipeline < 1:
            raise UserError("model.tensor_model_parallel_size and pipeline_model_parallel_size must be at least 1.")
        if world_size % (tensor * pipeline):
            raise UserError(
                f"{world_size} ranks cannot hold whole replicas of tensor {tensor} x pipeline {pipeline} = "
                f"{tensor * pipeline} ranks each. Start a multiple of {tensor * pipeline} ranks or change "
                "model.tensor_model_parallel_size / model.pipeline_model_parallel_size."
            )
        return world_size // (tensor * pipeline)


@dataclass(frozen=True)
class LlavaConfig:
    """A LLaVA: vision tower, two-layer GELU projector, language model.

    Input ids carry one `image_token_id` per image embedding. `vocab_size` of the language model is the real one; tensor
    parallelism pads it, and padded columns never reach a loss or a sample.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    language: LanguageConfig
    vision: VisionConfig
    image_token_id: int
    name: str = "llava"

    @property
    def tokens_per_image(self) -> int:
        """Positions that one image takes in a row."""
        return self.vision.tokens_per_image

    def padded_vocab_size(self, tensor_model_parallel_size: int) -> int:
        """Vocabulary rounded up to a multiple of the tensor-parallel size, and no further."""
        size = tensor_model_parallel_size
        return -(-self.language.vocab_size // size) * size

    def num_projector_parameters(self) -> int:
        """Parameters of the projector (LLaVA-1.5-13B: 31,467,520)."""
        hidden = self.language.hidden_size
        return (self.vision.hidden_size + 1) * hidden + (hidden + 1) * hidden

    def num_parameters(self) -> int:
        """Parameters that take part in the computation."""
        return self.language.num_parameters() + self.vision.num_parameters() + self.num_projector_parameters()

    def layers_per_stage(self, parallel: ParallelConfig) -> list[int]:
        """Decoder layers of every pipeline stage; raise `UserError` where they cannot be divided."""
        stages, layers = parallel.pipeline_model_parallel_size, self.language.num_layers
        first, last = parallel.num_layers_in_first_pipeline_stage, parallel.num_layers_in_last_pipeline_stage
        if stages == 1:
            if first is not None or last is not None:
                raise UserError(
                    "model.num_layers_in_first_pipeline_stage / ..._last_...: set, but "
                    "model.pipeline_model_parallel_size is 1. Remove them or raise the pipeline size."
                )
            return [layers]
        for name, count in (("first", first), ("last", last)):
            if count is not None and not 1 <= count < layers:
                raise UserError(
                    f"model.num_layers_in_{name}_pipeline_stage={count}: must lie between 1 and {layers - 1} "
                    f"for a model of {layers} layers."
                )
        middle = stages - (first is not None) - (last is not None)
        rest = layers - (first or 0) - (last or 0)
        if (middle == 0 and rest != 0) or (middle and (rest < middle or rest % middle)):
            raise UserError(
                f"{layers} layers over {stages} pipeline stages leave {rest} for {middle} stages"
                f"{' without a number of their own' if middle != stages else ''}: not a whole number each. Change "
                "model.pipeline_model_parallel_size, or set model.num_layers_in_first_pipeline_stage and/or "
                "model.num_layers_in_last_pipeline_stage so that the rest divides."
            )
        share = [rest // middle] * middle if middle else []
        return ([first] if first is not None else []) + share + ([last] if last is not None else [])

    def check(self, parallel: ParallelConfig) -> None:
        """Check sizes against each other and against the layout; raise `UserError` naming field and remedy."""
        self._check_sizes()
        size = parallel.tensor_model_parallel_size
        language, vision = self.language, self.vision
        for what, count in (
            ("language.num_attention_heads", language.num_attention_heads),
            ("language.num_query_groups (key/value heads)", language.groups),
            ("language.ffn_hidden_size", language.ffn_hidden_size),
            ("language.hidden_size", language.hidden_size),
            ("vision.num_attention_heads", vision.num_attention_heads),
            ("vision.ffn_hidden_size", vision.ffn_hidden_size),
        ):
            if count % size:
                usable = [n for n in range(1, count + 1) if count % n == 0]
                raise UserError(
                    f"model.tensor_model_parallel_size={size} does not divide model.{what}={count}. "
                    f"Sizes that do: {', '.join(map(str, usable[:12]))}."
                )
        if parallel.sequence_parallel and size == 1:
            raise UserError("model.sequence_parallel=true needs tensor_model_parallel_size above 1; set it to false.")
        self.layers_per_stage(parallel)

    def _check_sizes(self) -> None:
        language, vision = self.language, self.vision
        if language.num_attention_heads % language.groups:
            raise UserError(
                f"model.language.num_query_groups={language.groups} does not divide "
                f"num_attention_heads={language.num_attention_heads}."
            )
        if language.head_dim is None and language.hidden_size % language.num_attention_heads:
            raise UserError(
                f"model.language.hidden_size={language.hidden_size} is not a multiple of num_attention_heads="
                f"{language.num_attention_heads}; set model.language.head_dim."
            )
        if language.kv_channels % 2:
            raise UserError(f"model.language.head_dim={language.kv_channels}: rotary positions need an even width.")
        if vision.hidden_size % vision.num_attention_heads:
            raise UserError(
                f"model.vision.hidden_size={vision.hidden_size} is not a multiple of num_attention_heads="
                f"{vision.num_attention_heads}."
            )
        if vision.image_size % vision.patch_size:
            raise UserError(
                f"model.vision.image_size={vision.image_size} is not a multiple of patch_size={vision.patch_size}."
            )
        if not -vision.num_layers <= vision.feature_layer <= -1:
            raise UserError(
                f"model.vision.feature_layer={vision.feature_layer}: give -1 (last layer) to {-vision.num_layers}; "
                "LLaVA-1.5 uses -2."
            )
        if not 0 <= self.image_token_id < language.vocab_size:
            raise UserError(
                f"model.image_token_id={self.image_token_id} lies outside the vocabulary of {language.vocab_size}."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for a checkpoint's metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LlavaConfig:
        """Read what `to_dict` wrote or a YAML group holds; unknown keys raise `UserError`."""
        return read(cls, values, "model")


FP8_CAPABILITY = (8, 9)
"""First compute capability with FP8 units: Ada; Hopper and Blackwell follow."""


def fp8_capability(precision: str) -> tuple[int, int]:
    """First compute capability that a kind of FP8 runs on; scaling by blocks is newer than the units themselves."""
    return (9, 0) if precision == "fp8_blockwise" else FP8_CAPABILITY


def is_fp8(precision: str) -> bool:
    """Whether a number format is one of FP8."""
    return precision.startswith("fp8")


Lever = Literal["lora", "mlp", "rope", "dropout", "losses", "attention"]
"""Name of one of `Levers`."""

LEVERS_THAT_PAY: dict[str, frozenset[Lever]] = {"cpu": frozenset({"attention"}), "cuda": frozenset()}
"""Device type -> levers that were measured to pay there: what ``null`` pulls. BENCHMARKS.md has the figures."""


@dataclass(frozen=True)
class Levers:
    """Other ways to compute the same numbers, in fewer passes or in less memory; losses and gradients differ by rounding alone.

    Each is True, False, or None: where it has been measured to pay (`LEVERS_THAT_PAY`). They are no part of what a run is:
    it may be resumed with others.

    Args:
        lora: adapters' output is added within one product.
        mlp: SwiGLU as one function that keeps its input alone.
        rope: rotary positions as one function that keeps none of its input.
        dropout: adapters' dropout draws its mask again in the backward pass; neither mask nor what it lets through is kept.
        losses: log-probs of labels in chunks of positions; no logits are kept.
        attention: attention for shared prefixes and rows of several trees without a mask tensor.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    lora: bool | None = None
    mlp: bool | None = None
    rope: bool | None = None
    dropout: bool | None = None
    losses: bool | None = None
    attention: bool | None = None

    @classmethod
    def only(cls, *names: Lever) -> Levers:
        """These are pulled and no others, on any kind of device."""
        return cls(**(dict.fromkeys(get_args(Lever), False) | dict.fromkeys(names, True)))

    def on(self, device_type: str) -> frozenset[Lever]:
        """Names of the levers that are pulled on a kind of device (``torch.device.type``)."""
        chosen = {name: getattr(self, name) for name in get_args(Lever)}
        paying = LEVERS_THAT_PAY.get(device_type, frozenset[Lever]())
        return frozenset(name for name, value in chosen.items() if (name in paying if value is None else value))


@dataclass(frozen=True)
class EngineConfig:
    """How the model is computed: number format, kernels, recomputation.

    `transformer_impl`: ``auto`` takes TransformerEngine where it is installed with a GPU, else ``local``; in fp32 it takes
    ``local``, since TransformerEngine multiplies fp32 matrices in TF32.
    `recompute`: ``none``, ``selective`` (core attention) or ``full`` (every layer).
    `levers`: which of several ways to the same numbers is taken.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    precision: str = "fp32"
    transformer_impl: str = "auto"
    recompute: str = "none"
    seed: int = field(default=1234)
    levers: Levers = field(default_factory=Levers)

    def __post_init__(self) -> None:
        for name, allowed in (
            ("precision", get_args(Precision)),
            ("transformer_impl", get_args(TransformerImpl)),
            ("recompute", get_args(Recompute)),
        ):
            if getattr(self, name) not in allowed:
                raise UserError(f"{name}={getattr(self, name)!r}: choose from {', '.join(allowed)}.")

    @property
    def fp8(self) -> bool:
        """Whether matrix products of the decoder run in FP8."""
        return is_fp8(self.precision)
