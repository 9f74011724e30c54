"""What can be known of a conversion before torch is imported: direction, paths, layout, and what does not go together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_mm_align import lock
from nemo_mm_align.attributes import AttributeSchema
from nemo_mm_align.chat_template import ChatTemplate
from nemo_mm_align.errors import UserError
from nemo_mm_align.model.config import ParallelConfig
from nemo_mm_align.model.settings import read_parallel
from nemo_mm_align.outputs import check_folder, check_unused, folder_to_make, folder_to_write
from nemo_mm_align.parallel.checkpoint_folder import step_folder
from nemo_mm_align.parallel.source import open_source
from nemo_mm_align.processes import this_process

DIRECTIONS = ("import", "export", "compose")
DTYPES = ("fp32", "bf16", "fp16")


def check_early(config: Mapping[str, Any]) -> None:
    """Check conf/convert.yaml, composed, as plain values; `out` is this process's from then on.

    Raises:
        UserError: what is wrong, with the remedy.
    """
    check_conversion(config)
    out = place_of(config)
    if this_process().rank == 0:
        lock.reserve(lock.lock_of(out), out, "give another out")


def check_conversion(config: Mapping[str, Any]) -> None:
    """Check settings and paths against each other; nothing is written. Raises as `check_early` does."""
    if config["direction"] not in DIRECTIONS:
        raise UserError(f"direction={config['direction']!r}: choose from {', '.join(DIRECTIONS)}.")
    if config["direction"] == "compose":
        _check_composition(config)
    else:
        _check_source(config)
    _check_out(config)


def place_of(config: Mapping[str, Any]) -> Path:
    """Return the folder to write, links followed for an import, which adds to a folder; the folder above it is made."""
    return (folder_to_write if config["direction"] == "import" else folder_to_make)(config["out"])


def layout_of(config: Mapping[str, Any]) -> ParallelConfig:
    """Return the layout; raise `UserError` where the ranks cannot hold it."""
    parallel = read_parallel(config)
    parallel.data_parallel_size(this_process().world_size)
    return parallel


def template_of(config: Mapping[str, Any]) -> ChatTemplate | None:
    """Return the template that was chosen, if one was."""
    return ChatTemplate.from_config(config["template"]) if config.get("template") else None


def schema_of(config: Mapping[str, Any]) -> AttributeSchema | None:
    """Return the attribute schema that was chosen, if one was."""
    return AttributeSchema.model_validate(config["attribute_schema"]) if config.get("attribute_schema") else None


def _check_source(config: Mapping[str, Any]) -> None:
    source, exports = open_source(config["source"]), config["direction"] == "export"
    if not exports and source.metadata is not None:
        raise UserError(
            f"source={config['source']}: is a checkpoint already; direction=export makes a Hugging Face folder."
        )
    if exports and config["adapters"] not in ("merged", "apart"):
        raise UserError(f"adapters={config['adapters']!r}: choose merged or apart.")
    if exports and config["adapters"] == "apart" and source.lora is None:
        raise UserError(f"source={config['source']}: has no adapters; adapters=merged exports the whole model.")
    if exports and config["dtype"] not in (None, *DTYPES):
        raise UserError(f"dtype={config['dtype']!r}: choose from {', '.join(DTYPES)}, or null for that of the origin.")
    source.template(template_of(config))
    source.schema(schema_of(config))
    source.config.check(layout_of(config))


def _check_composition(config: Mapping[str, Any]) -> None:
    if template_of(config) is None:
        raise UserError("direction=compose needs the language model's template: template=chatml or another.")
    if this_process().world_size > 1:
        raise UserError("direction=compose runs in one process; start it without torchrun.")
    if config["vision"] is None and not config.get("model"):
        raise UserError("direction=compose needs a tower: vision=FOLDER of a CLIP model, or model=smollm2_llava.")
    for name in ("source", "vision"):
        if config[name] is not None and not Path(config[name]).exists():
            raise UserError(f"{name}={config[name]}: no such file or folder.")


def _check_out(config: Mapping[str, Any]) -> None:
    out = Path(config["out"])
    if config["direction"] == "import":
        check_folder(out)
        if step_folder(out, 0).exists():
            raise UserError(f"{step_folder(out, 0)}: exists already. Choose another out= or remove it.")
        return
    check_unused(out)
    check_folder(out)
