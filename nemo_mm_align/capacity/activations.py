"""Tensors that a micro batch leaves behind for its backward pass, as this model's own modules save them.

Each function returns bytes by name, so that a surprising sum can be read. What counts is storage: a view keeps the whole
tensor alive that it looks at (the values of attention keep the joined q, k, v).

Shapes: n tokens of a micro batch on this rank, H hidden, Q width of all query heads, K of all key heads, F feed-forward
width, R adapter rank, P labelled positions; t tensor-parallel size. Everything is per rank.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_mm_align.capacity.job import TrainingJob

_INDEX = 8  # bytes of an int64
_FLOAT = 4

Bytes = dict[str, float]


@dataclass(frozen=True)
class Kernels:
    """What differs between the kernels of a CPU and those of a GPU.

    Args:
        dropout_mask: bytes of a dropout mask's element, ``None`` = as wide as an activation.
        repeats_keys: grouped keys and values are copied for every query head.
        saves_normalised: a norm with a trained weight also keeps its normalised input.
    """

    dropout_mask: int | None
    repeats_keys: bool
    saves_normalised: bool


GPU_KERNELS = Kernels(dropout_mask=1, repeats_keys=False, saves_normalised=False)
CPU_KERNELS = Kernels(dropout_mask=None, repeats_keys=True, saves_normalised=True)


class LayerActivations:
    """Saved tensors of one decoder layer."""

    def __init__(self, job: TrainingJob, kernels: Kernels) -> None:
        language, self.job, self.kernels = job.config.language, job, kernels
        self.t = job.parallel.tensor_model_parallel_size
        self.element = job.element_bytes
        self.tokens = job.rows * job.row_length
        self.split_tokens = self.tokens / (self.t if job.parallel.sequence_parallel else 1)
        self.heads = language.num_attention_heads / self.t
        self.queries, self.keys = language.query_width / self.t, language.key_width / self.t
        self.hidden, self.ffn = language.hidden_size, language.ffn_hidden_size / self.t
        self.targets = set(job.lora.targets) if job.lora else set()

    def _input(self, name: str, size: float, adapted: bool) -> Bytes:
        """Input of a linear layer: kept where weights or adapters are trained; dropout makes a tensor of its own."""
        if adapted and self.job.lora is not None and self.job.lora.dropout:
            mask = self.kernels.dropout_mask or self.element
            return {f"{name} after dropout": size * (self.element + mask)}
        if not (adapted or self.job.trains_language):
            return {}
        # FP8 linear layers with trained weights keep the quantised input alone.
        return {name: size * (1 if self.job.fp8 and self.job.trains_language else self.element)}

    def norm(self, name: str) -> Bytes:
        """Input of a norm, and on a CPU its normalised input."""
        saved = {f"{name} input": self.split_tokens * self.hidden * self.element}
        if self.kernels.saves_normalised and self.job.trains_language:
            saved[f"{name} normalised"] = self.split_tokens * self.hidden * self.element
        return saved

    def _columns(self, name: str, targets: set[str]) -> Bytes:
        """Inputs, low-rank values and the joined A matrices of a column-parallel layer."""
        adapted = self.targets & targets
        saved = self._input(f"{name} input", self.split_tokens * self.hidden, bool(adapted))
        if adapted and self.job.lora:
            rank = len(adapted) * self.job.lora.rank
            saved[f"{name} low rank"] = (self.tokens + self.hidden) * rank * self.element
        return saved

    def _rows(self, name: str, target: str, width: float, own_copy: bool) -> Bytes:
        adapted = target in self.targets
        dropped = adapted and self.job.lora is not None and self.job.lora.dropout > 0
        saved = self._input(f"{name} input", self.tokens * width, adapted) if own_copy or dropped else {}
        if adapted and self.job.lora:
            saved[f"{name} low rank"] = self.split_tokens * self.job.lora.rank * self.element
        return saved

    def attention(self) -> Bytes:
        """Rotary factors, q, k, v, and what the attention kernel keeps unless it is recomputed."""
        repeats = self.kernels.repeats_keys and self.keys < self.queries
        recomputed = self.job.engine.recompute == "selective"
        width = self.job.config.language.kv_channels
        saved = {
            "rotary factors": 4.0 * self.tokens * width * self.element,
            "queries": self.tokens * self.queries * self.element,
        }
        if repeats and not recomputed:
            saved["repeated keys and values"] = 2 * self.tokens * self.queries * self.element
        else:
            saved["keys"] = self.tokens * self.keys * self.element
            saved["joined qkv"] = self.tokens * (self.queries + 2 * self.keys) * self.element
        return saved if recomputed else saved | self.attention_kernel()

    def attention_kernel(self) -> Bytes:
        """Output, row sums, and the mask or the scores."""
        job, element = self.job, self.element
        saved = {
            "attention output": self.tokens * self.queries * element,
            "attention row sums": self.tokens * self.heads * _FLOAT,
        }
        square = job.rows * job.row_length**2
        if not job.fused_attention:
            saved["attention scores"] = 2 * square * self.heads * element
        elif job.has_mask:
            saved["attention mask as numbers"] = square * element
        return saved

    def mlp(self) -> Bytes:
        """Gate and up, the activated gate, and up plus megatron-core's offset."""
        return {"gate and up, twice": self.tokens * 4 * self.ffn * self.element}

    def all(self) -> Bytes:
        """Everything that one layer saves when none of it is recomputed as a whole."""
        # The projection's input is a view of the kernel's output, which counts there unless that is recomputed.
        recomputed = self.job.engine.recompute == "selective"
        return {
            **self.norm("first norm"),
            **self._columns("qkv", {"q", "k", "v"}),
            **self.attention(),
            **self._rows("projection", "o", self.queries, own_copy=recomputed),
            **self.norm("second norm"),
            **self._columns("gate and up", {"gate", "up"}),
            **self.mlp(),
            **self._rows("down", "down", self.ffn, own_copy=True),
        }

    def total(self) -> float:
        """Bytes that one layer saves."""
        return sum(self.all().values())

    def boundary(self) -> float:
        """Bytes of one hidden state, all that a fully recomputed layer keeps and what travels between stages."""
        return self.split_tokens * self.hidden * self.element


def _projector(job: TrainingJob) -> Bytes:
    vision, hidden = job.config.vision, job.config.language.hidden_size
    t, element = job.parallel.tensor_model_parallel_size, job.element_bytes
    embeddings = job.images * vision.tokens_per_image
    saved: Bytes = {"image positions": float(job.rows * vision.tokens_per_image * _INDEX)}
    if job.train_projector or job.train_vision:
        saved["projector"] = embeddings * (vision.hidden_size + 2 * hidden / t) * element
    return saved


def _tower(job: TrainingJob) -> Bytes:
    """The vision tower's layers where it is trained; frozen, it saves nothing."""
    if not job.train_vision:
        return {}
    vision, t = job.config.vision, job.parallel.tensor_model_parallel_size
    tokens = job.images * (vision.tokens_per_image + 1)
    # two norms with in- and outputs, joined qkv, attention output and its copy; x, its sigmoid and their product
    layer = 4 * vision.hidden_size + (3 + 2) * vision.hidden_size / t + 3 * vision.ffn_hidden_size / t
    return {"vision tower": vision.computed_layers * tokens * layer * job.element_bytes}


def logits(job: TrainingJob) -> Bytes:
    """Softmax over this rank's vocabulary columns at labelled positions, always in fp32, and what leads to it."""
    language, t = job.config.language, job.parallel.tensor_model_parallel_size
    columns = job.config.padded_vocab_size(t) / t
    saved: Bytes = {
        "softmax": job.labelled * columns * _FLOAT,
        "labelled positions": job.labelled * 5.0 * _INDEX,
    }
    if job.trains_language:
        saved["labelled hidden states"] = float(job.labelled * language.hidden_size * job.element_bytes)
    return saved


def saved_tensors(job: TrainingJob, stage: int, kernels: Kernels = GPU_KERNELS) -> Bytes:
    """Bytes that autograd keeps of one micro batch on a stage, by name."""
    layer, stages = LayerActivations(job, kernels), job.config.layers_per_stage(job.parallel)
    full = job.engine.recompute == "full"
    saved: Bytes = {"decoder layers": stages[stage] * (layer.boundary() if full else layer.total())}
    if stage == 0:
        saved |= _projector(job) | _tower(job)
    if stage == len(stages) - 1:
        saved["last norm"] = sum(layer.norm("last norm").values())
        saved |= logits(job)
    if full:  # what goes into a recomputed layer is kept, once for all layers
        saved |= {name: size for name, size in inputs(job, stage).items() if name in ("angles", "attention mask")}
    return saved


def inputs(job: TrainingJob, stage: int) -> Bytes:
    """Bytes of a micro batch itself, of its rotary angles, and of the mask of shared prefixes."""
    positions = job.rows * job.row_length
    held: Bytes = {
        "batch": positions * 4.0 * _INDEX,
        "angles": float(positions * job.config.language.kv_channels * _FLOAT),
    }
    if job.has_mask:
        held["attention mask"] = float(job.rows * job.row_length**2)
    if stage == 0:
        held["pixels"] = job.images * 3.0 * job.config.vision.image_size**2 * _FLOAT
    return held


def stage_activations(job: TrainingJob, stage: int, kernels: Kernels = GPU_KERNELS) -> Bytes:
    """Bytes that one micro batch takes on a stage from its forward to its backward pass, by name."""
    return saved_tensors(job, stage, kernels) | inputs(job, stage)
