"""Which fused kernels are there and which ones a run computes with.

`installed` looks without importing torch, so that a check on a login node is quick; `active` asks torch and megatron-core
themselves and is what a run writes into its facts.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

from nemo_mm_align.core.packages import installed_version


@dataclass(frozen=True)
class KernelPackage:
    """A package of fused kernels.

    Attributes:
        name: as its makers call it.
        distributions: names under which pip knows it.
        module: what must import for the kernels to work, its compiled part included.
        used_for: what a run takes from it.
        without: what happens where it is missing.
    """

    name: str
    distributions: tuple[str, ...]
    module: str
    used_for: str
    without: str


PACKAGES = (
    KernelPackage(
        "TransformerEngine",
        ("transformer-engine", "transformer_engine_torch"),
        "transformer_engine.pytorch",
        "fused linears and norms, FP8, FusedAdam, gradient clipping",
        "megatron-core's own linears and torch's norms; FP8 is refused",
    ),
    KernelPackage(
        "apex",
        ("apex",),
        "amp_C",  # NVIDIA's apex built with its CUDA extensions; the public index has another package named apex
        "FusedAdam and gradient clipping where TransformerEngine is missing",
        "they come from TransformerEngine, else from torch, slower",
    ),
    KernelPackage(
        "flash-attn",
        ("flash-attn",),
        "flash_attn_2_cuda",
        "nothing: attention is torch's scaled_dot_product_attention, whose flash kernel torch brings along",
        "nothing is lost",
    ),
)


@dataclass(frozen=True)
class Installed:
    """What was found of one package; `error` says why it does not import, where that was tried."""

    package: KernelPackage
    version: str | None
    error: str | None = None

    @property
    def usable(self) -> bool:
        """Whether the kernels are there and, as far as tried, import."""
        return self.version is not None and self.error is None


def installed(import_them: bool = False) -> list[Installed]:
    """Look for the packages of fused kernels.

    Args:
        import_them: import each one that is there (torch first): a build for another torch is found only so.
    """
    return [_look(package, import_them) for package in PACKAGES]


def _look(package: KernelPackage, import_it: bool) -> Installed:
    if importlib.util.find_spec(package.module.partition(".")[0]) is None:
        return Installed(package, None)
    found = _version(package)
    if not import_it:
        return Installed(package, found)
    try:
        importlib.import_module("torch")
        importlib.import_module(package.module)
    except Exception as error:  # a broken build raises whatever it likes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Installed(package, found, reason)
    return Installed(package, found)


def _version(package: KernelPackage) -> str:
    return installed_version(*package.distributions) or "unknown version"


def active(transformer_impl: str) -> dict[str, str]:
    """What a run computes with, by part; imports torch and megatron-core.

    Args:
        transformer_impl: ``local`` or ``transformer_engine``, as the model was built.
    """
    import torch
    from megatron.core import optimizer
    from megatron.core.optimizer import clip_grads

    fused, scale = transformer_impl == "transformer_engine", clip_grads.multi_tensor_scale_impl
    engine = f"TransformerEngine {_version(PACKAGES[0])}" if fused else ""
    return {
        "linear": engine or "megatron-core",
        "norm": engine or f"torch {torch.__version__}",
        "attention": f"torch scaled_dot_product_attention ({attention_kernels()})",
        "optimizer": f"{_origin(optimizer.Adam)} {optimizer.Adam.__name__}",
        "gradient_norm": "torch get_total_norm",
        "gradient_clipping": f"{_origin(scale)} {scale.__name__}",
    }


def attention_kernels() -> str:
    """The kernels that torch's attention may choose from on this machine, in the order in which it tries them."""
    import torch
    from torch.nn.attention import SDPBackend

    if not torch.cuda.is_available():
        return "CPU kernel"
    enabled = {
        SDPBackend.FLASH_ATTENTION: ("flash", torch.backends.cuda.flash_sdp_enabled()),
        SDPBackend.CUDNN_ATTENTION: ("cuDNN", torch.backends.cuda.cudnn_sdp_enabled()),
        SDPBackend.EFFICIENT_ATTENTION: ("memory-efficient", torch.backends.cuda.mem_efficient_sdp_enabled()),
        SDPBackend.MATH: ("math", torch.backends.cuda.math_sdp_enabled()),
    }
    order = [SDPBackend(number) for number in torch._C._get_sdp_priority_order()]
    named = [enabled[backend] for backend in order if backend in enabled]
    return ", then ".join(name for name, is_on in named if is_on)


def _origin(thing: object) -> str:
    """The package that a class or function comes from."""
    module = (getattr(thing, "__module__", None) or "").partition(".")[0]
    return {"transformer_engine": "TransformerEngine", "transformer_engine_torch": "TransformerEngine",
            "amp_C": "apex", "megatron": "megatron-core"}.get(module, module or "unknown")  # fmt: skip


def report() -> str:
    """One line per package, for the log of an image's build."""
    lines = []
    for found in installed(import_them=True):
        package = found.package
        if found.version is None:
            state = f"not installed: {package.without}"
        else:
            state = f"{found.version}: " + (f"does not import ({found.error})" if found.error else package.used_for)
        lines.append(f"{package.name:18} {state}")
    return "\n".join(lines)
