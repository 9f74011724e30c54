"""generation_config.json of an export: what ends an answer, and how servers sample where a request says nothing of it.

vLLM takes ``temperature``, ``top_p``, ``top_k``, ``min_p``, ``repetition_penalty`` and ``max_new_tokens`` of this file as
its defaults, and so does SGLang but for the last. They do not look at ``do_sample``. What stood there before training would
change evaluations unseen, so nothing of it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from nemo_mm_align.core.configuration import Count, Natural, Positive, StrictModel

_KEPT = ("bos_token_id", "transformers_version")
_IDLE = (*_KEPT, "eos_token_id", "pad_token_id", "_from_model_config")
_TOP_K_OF_TRANSFORMERS = 50
"""Default of transformers 4. vLLM asks transformers for what differs from the defaults, so this value never reaches it."""


class GenerationDefaults(StrictModel):
    """How an exported model answers where a request says nothing; None is left to whoever serves it.

    Args:
        temperature: 0 is greedy.
        top_p, min_p: of the most probable tokens, as in vLLM and transformers.
        top_k: 0 keeps every token.
        repetition_penalty: 1 is none.
        max_new_tokens: vLLM caps every answer at it, whatever a request asks for.
    """

    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Natural | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Positive | None = None
    max_new_tokens: Count | None = None

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is asked for."""
        return self.temperature == 0

    def entries(self) -> dict[str, Any]:
        """Return the entries of generation_config.json.

        transformers samples only where ``do_sample`` is true, and then among 50 tokens unless told otherwise; both are
        written so that it does what the servers do.
        """
        given = self.model_dump(exclude_none=True)
        if self.greedy:
            return {**given, "do_sample": False}
        if not any(name in given for name in ("temperature", "top_p", "top_k", "min_p")):
            return given
        return {"temperature": 1.0, "top_p": 1.0, "top_k": 0, **given, "do_sample": True}

    def warnings(self) -> list[str]:
        """Return what is asked for and does not come out as one would think."""
        said = []
        if self.top_k == _TOP_K_OF_TRANSFORMERS:
            said.append(
                f"generation.top_k={self.top_k} is the default of transformers 4, which vLLM therefore does not see: it would "
                "sample among all tokens. Take another number, or send top_k with each request."
            )
        if self.greedy and any(value is not None for value in (self.top_p, self.top_k, self.min_p)):
            said.append(
                "generation.temperature=0 takes the most probable token: top_p, top_k and min_p change nothing."
            )
        return said


def generation_config(
    origin: Mapping[str, Any], tokens: Mapping[str, Any], defaults: GenerationDefaults | None = None
) -> dict[str, Any]:
    """Return the content of an export's generation_config.json.

    Args:
        origin: content of the file in the folder that the model came from; {} where there is none.
        tokens: ``eos_token_id``, ``pad_token_id``: those of training.
        defaults: what was chosen for the export.
    """
    kept = {name: origin[name] for name in _KEPT if name in origin}
    return {**kept, **tokens, **(defaults or GenerationDefaults()).entries()}


def left_out(origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the folder of origin says of decoding, which no export takes over."""
    return {name: value for name, value in origin.items() if name not in _IDLE}
