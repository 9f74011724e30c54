"""Tensors that a micro batch leaves behind for its backward pass, as this model's own modules save them.

Each function returns bytes by name, so that a surprising sum can be read. What counts is storage: a view keeps the whole
tensor alive that it looks at (the values of attention keep the joined q, k, v). Levers (`Levers`) are other ways to the same
numbers, and keep other tensors: `TrainingJob.levers` says which are pulled.

Shapes: n tokens of a micro batch on this rank, H hidden, Q width of all query heads, K of all key heads, F feed-forward
width, R adapter rank, P labelled positions; t tensor-parallel size. Everything is per rank.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_mm_align.capacity.job import TrainingJob
from nemo_mm_align.capacity.losses import logits

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
        gathers_keys: attention by trees gathers keys and values, a prefix's once more for every further branch.
    """

    dropout_mask: int | None
    repeats_keys: bool
    saves_normalised: bool
    gathers_keys: bool


GPU_KERNELS = Kernels(dropout_mask=1, repeats_keys=False, saves_normalised=False, gathers_keys=True)
CPU_KERNELS = Kernels(dropout_mask=None, repeats_keys=True, saves_normalised=True, gathers_keys=False)


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
        self.drops = job.lora is not None and job.lora.dropout > 0 and "dropout" not in job.levers
        self.gathers = kernels.gathers_keys and job.attends_by_trees

    def _input(self, name: str, size: float, adapted: bool) -> Bytes:
        """Input of a linear layer: kept where weights or adapters are trained; dropout makes a tensor of its own.

        The lever ``dropout`` makes none: its mask is drawn again, and the input kept as it would be without.
        """
        if adapted and self.drops:
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
            if "lora" in self.job.levers and name == "qkv":  # one matrix B whose columns are joined like the outputs
                saved["qkv joined B"] = rank * (self.queries + 2 * self.keys) * self.element
        return saved

    def _rows(self, name: str, target: str, width: float, own_copy: bool) -> Bytes:
        adapted = target in self.targets
        own_copy = own_copy or (adapted and self.drops)
        saved = self._input(f"{name} input", self.tokens * width, adapted) if own_copy else {}
        if adapted and self.job.lora:
            saved[f"{name} low rank"] = self.split_tokens * self.job.lora.rank * self.element
        return saved

    def attention(self) -> Bytes:
        """Rotary factors, q, k, v, and what the attention kernel keeps unless it is recomputed.

        Under the lever ``rope`` layers share their rotary factors (see `rotary`), and values are a tensor of their own.
        """
        recomputed, rope = self.job.engine.recompute == "selective", "rope" in self.job.levers
        saved: Bytes = {"queries": self.tokens * self.queries * self.element}
        if not rope:
            saved["rotary factors"] = 4.0 * self.tokens * self.job.config.language.kv_channels * self.element
        if recomputed or not (self.gathers or self._repeats):
            saved["keys"] = self.tokens * self.keys * self.element
            kept = {"values": self.keys} if rope else {"joined qkv": self.queries + 2 * self.keys}
            saved |= {name: self.tokens * width * self.element for name, width in kept.items()}
        elif not self.gathers:  # the kernel's own
            saved["repeated keys and values"] = 2 * self.tokens * self.queries * self.element
        return saved if recomputed else saved | self.attention_kernel()

    @property
    def _repeats(self) -> bool:
        """Whether grouped keys and values are copied; attention by trees takes them as they are."""
        return self.kernels.repeats_keys and self.keys < self.queries and not self.job.attends_by_trees

    def attention_kernel(self) -> Bytes:
        """Output, row sums, gathered keys and values, and the mask or the scores."""
        job, element = self.job, self.element
        saved = {
            "attention output": self.tokens * self.queries * element,
            "attention row sums": self.tokens * self.heads * _FLOAT,
        }
        square = job.rows * job.row_length**2
        if self.gathers:
            saved["gathered keys and values"] = 2 * job.gathered_keys * self.keys * element
        elif not job.fused_attention and not job.attends_by_trees:
            saved["attention scores"] = 2 * square * self.heads * element
        elif job.has_mask:
            saved["attention mask as numbers"] = square * element
        return saved

    def mlp(self) -> Bytes:
        """Gate and up, the activated gate, and up plus megatron-core's offset; under the lever ``mlp`` the first alone."""
        if "mlp" in self.job.levers:
            return {"gate and up": self.tokens * 2 * self.ffn * self.element}
        return {"gate and up, twice": self.tokens * 4 * self.ffn * self.element}

    def down(self) -> Bytes:
        """Input and low-rank values of the feed-forward layer's second half."""
        return self._rows("down", "down", self.ffn, own_copy=True)

    def mlp_workspace(self) -> float:
        """Bytes on top while a feed-forward layer is differentiated.

        Under the lever ``mlp`` the gradients of output, gate and up are there with one more tensor of the output's width, and
        what the second half kept is gone.
        """
        if "mlp" in self.job.levers:
            return self.tokens * 4 * self.ffn * self.element - sum(self.down().values())
        return self.tokens * 2 * self.ffn * self.element

    def all(self) -> Bytes:
        """Everything that one layer saves when none of it is recomputed as a whole."""
        # The projection's input is a view of the kernel's output, which counts there unless that is recomputed; a copy of it
        # where flash attention has put several rows one after the other.
        own_copy = self.job.engine.recompute == "selective" or (self.gathers and self.job.rows > 1)
        return {
            **self.norm("first norm"),
            **self._columns("qkv", {"q", "k", "v"}),
            **self.attention(),
            **self._rows("projection", "o", self.queries, own_copy=own_copy),
            **self.norm("second norm"),
            **self._columns("gate and up", {"gate", "up"}),
            **self.mlp(),
            **self.down(),
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
    if full or "rope" in job.levers:  # what goes into a recomputed layer is kept, once for all layers
        saved |= rotary(job)
    if full:
        saved |= _mask(job)
    return saved


def rotary(job: TrainingJob) -> Bytes:
    """Angles of all positions; under the lever ``rope`` their cosines and sines, which all layers share."""
    numbers = job.rows * job.row_length * job.config.language.kv_channels
    if "rope" in job.levers:
        return {"cosines and sines": 2.0 * numbers * job.element_bytes}
    return {"angles": float(numbers * _FLOAT)}


def _mask(job: TrainingJob) -> Bytes:
    return {"attention mask": float(job.rows * job.row_length**2)} if job.has_mask else {}


def inputs(job: TrainingJob, stage: int) -> Bytes:
    """Bytes of a micro batch itself, of its rotary angles, and of the mask of shared prefixes."""
    held: Bytes = {"batch": job.rows * job.row_length * 4.0 * _INDEX, **rotary(job), **_mask(job)}
    if stage == 0:
        held["pixels"] = job.images * 3.0 * job.config.vision.image_size**2 * _FLOAT
    return held


def stage_activations(job: TrainingJob, stage: int, kernels: Kernels = GPU_KERNELS) -> Bytes:
    """Bytes that one micro batch takes on a stage from its forward to its backward pass, by name."""
    return saved_tensors(job, stage, kernels) | inputs(job, stage)
