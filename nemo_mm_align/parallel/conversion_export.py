"""The three forms of an export: one model folder, a PEFT folder, a base with its adapters beside it for servers."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.model.huggingface_export import Companions, export_huggingface
from nemo_mm_align.model.huggingface_origin import Origin
from nemo_mm_align.model.huggingface_peft import export_peft, projector_is_trained
from nemo_mm_align.model.huggingface_writer import new_folder
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.parallel import checkpoint, runtime
from nemo_mm_align.parallel.conversion_settings import ConvertSettings
from nemo_mm_align.parallel.first_rank import on_first_rank
from nemo_mm_align.parallel.model_card import Card, Form, served_flags
from nemo_mm_align.parallel.source import ModelSource

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Export:
    """What is written, and what goes with it."""

    model: Llava
    source: ModelSource
    config: ConvertSettings
    origin: Origin
    companions: Companions
    card: Card

    def whole(self, folder: Path, form: Form) -> None:
        """Write a model folder: adapters merged, or as the ``base`` that they stand on."""
        shard, described = int(self.config.max_shard_gb * 1e9), replace(self.companions, card=self.card.text(form))
        export_huggingface(self.model, folder, self.origin, self.config.dtype, described, shard, merge=form == "whole")

    def apart(self) -> None:
        """Write adapters and projector; say where adapters alone are not the model."""
        base = _peft_base(self.source, self.config.base)
        trained = projector_is_trained(self.model, base)
        if trained and runtime.rank() == 0:
            logger.warning(
                "%s: the projector was trained as well and stands beside the adapters (modules_to_save), which PEFT loads and "
                "servers refuse. adapters=served makes two folders for them, adapters=merged one.",
                self.config.out,
            )
        described = replace(self.companions, card=self.card.text("apart", trained))
        export_peft(self.model, self.config.out, base, self.origin, self.config.dtype, described)

    def served(self) -> None:
        """Write ``base``, with the trained projector, and ``adapter``; both appear together or not at all."""
        with ExitStack() as stack:
            out = on_first_rank(lambda: stack.enter_context(new_folder(self.config.out)))
            self.whole(out / "base", "base")
            described = replace(self.companions, card=self.card.text("adapter"))
            base = str(self.config.out.absolute() / "base")
            export_peft(self.model, out / "adapter", base, self.origin, self.config.dtype, described, projector=False)
        assert self.source.lora is not None
        flags = served_flags(self.source.lora.rank)
        if runtime.rank() == 0:
            logger.info("vllm serve %s %s --lora-modules NAME=%s", base, flags, self.config.out.absolute() / "adapter")


def export_as_asked(export: Export) -> None:
    """Write the form that ``adapters`` names; all ranks call it."""
    if export.config.adapters == "merged":
        export.whole(export.config.out, "whole")
    elif export.config.adapters == "apart":
        export.apart()
    else:
        export.served()


def _peft_base(source: ModelSource, base: str | None) -> str:
    path = base or (source.metadata.base_path if source.metadata else "")
    if checkpoint.latest_checkpoint(path) is not None:
        raise UserError(
            f"{path}: the adapters' base is a checkpoint, which PEFT cannot open. Export the base, then give its "
            "folder as base=FOLDER; or export with adapters=merged."
        )
    return path
