"""float64 where transformers and megatron-core ask for float32: rounding then hides nothing and explains nothing.

fp32 carries 24 bits; a tiny model's gradients lose another 7 of them on the way, how many depends on the order in which a
kernel sums, and that on the kind of CPU. A bound near this noise holds on one machine and not on the next, one far above
it overlooks errors. In float64 the noise lies at 1e-14, so that a bound of 1e-10 does neither.

    torchrun --nproc-per-node 2 tests/float64.py scripts/sample.py checkpoint=MODEL ...

runs a script of ours so.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode

TOLERANCE = 1e-10
"""Relative, for two orders of the same float64 sums: 10,000 times the noise, and far below any mistake."""


class Float64(TorchDispatchMode):
    """Within the block, whoever asks torch for float32, aloud or by default, gets float64, in the backward pass as well.

    A dtype that is handed to the model is not enough: megatron-core casts in the rotary angles, in
    `vocab_parallel_cross_entropy` (both ways) and in the gradient buffers (`grad_reduce_in_fp32`), transformers in RMSNorm
    and in the rotary angles, all without an option. Files keep their dtype, and what is read from one keeps its values:
    float32 is copied into float64 exactly. What takes sizes in bytes from ``torch.float32`` itself, as exports do, belongs
    outside.
    """

    def __enter__(self) -> Self:
        self._default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.set_default_dtype(self._default)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation that was asked for, with the wider type; bytes are read as what they are."""
        if func is torch.ops.aten.view.dtype:
            return func(*args, **(kwargs or {}))
        return func(*map(_wider, args), **{name: _wider(value) for name, value in (kwargs or {}).items()})


def _wider(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def main(script: str) -> None:
    """Run a script as it is, in float64; its words follow its path."""
    with Float64():
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    sys.argv.pop(0)
    main(sys.argv[0])
