"""Folder names by which SGLang chooses a chat template of its own instead of the one in the folder."""

from __future__ import annotations

import re
from pathlib import Path

_SGLANG = {
    "vicuna_v1.1": r"vicuna|llava-v1\.5|llava-next-video-7b",
    "chatml-llava": r"llava-v1\.6-34b|llava-v1\.6-yi-34b|llava-next-video-34b|llava-onevision-qwen2",
    "points-v15-chat": r"points",
    "internvl-2-5": r"internvl",
    "janus-pro": r"janus",
    "deepseek-vl2": r"deepseek.*vl2",
    "minicpmv or minicpmo": r"minicpm-(v|o)",
    "phi-4-mm": r"phi-4-multimodal",
    "llama-2": r"llama-2.*chat|codellama.*instruct",
    "llama_3_vision": r"llama.*3\.2.*vision",
    "mistral": r"pixtral|(mistral|mixtral).*instruct",
    "qwen2-vl": r"qwen.*vl",
}
"""What SGLang's releases look for in a model's path, whatever the case (srt/parser/conversation.py, match_...)."""


def name_warning(folder: str | Path) -> str | None:
    """Return what is to be said of an exported folder whose path makes SGLang ignore its chat template; else None."""
    path = str(Path(folder).absolute())
    for template, pattern in _SGLANG.items():
        found = re.search(pattern, path, re.IGNORECASE)
        if found:
            return (
                f"{path}: SGLang takes its built-in template {template} for a path that contains {found[0]!r} and ignores the "
                f"folder's own, with all that steers by attributes. Give the folder another name, or start SGLang with "
                f"--chat-template {path}/chat_template.jinja."
            )
    return None
