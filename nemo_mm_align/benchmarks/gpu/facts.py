"""What figures depend on besides the code: card, driver, versions, date, command. Neither torch nor CUDA is started."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from typing import Any

from nemo_mm_align.core.packages import installed_version

_PACKAGES = {
    "torch": ("torch",),
    "megatron-core": ("megatron-core",),
    "TransformerEngine": ("transformer_engine_torch", "transformer-engine"),
    "transformers": ("transformers",),
    "peft": ("peft",),
    "trl": ("trl",),
    "liger-kernel": ("liger-kernel",),
}
_QUERY = "name,memory.total,driver_version,power.limit,clocks.max.sm"
NO_CARD = "no GPU"


def describe(command: str) -> dict[str, Any]:
    """Return the facts that every line of results carries."""
    return {
        "run": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        **_card(),
        "python": platform.python_version(),
        "versions": {name: found for name, names in _PACKAGES.items() if (found := installed_version(*names))},
    }


def _card() -> dict[str, str]:
    """Name, memory and driver of the first visible card, as nvidia-smi tells."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {"card": NO_CARD, "driver": "none"}
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
    command = [program, f"--query-gpu={_QUERY}", "--format=csv,noheader", f"--id={wanted}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        name, memory, driver, power, clock = (part.strip() for part in answer.splitlines()[0].split(","))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return {"card": NO_CARD, "driver": "unknown"}
    return {"card": name, "driver": driver, "card_memory": memory, "power_limit": power, "max_clock": clock}
