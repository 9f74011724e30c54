"""What the user can set of a server; needs no torch, so that a mistake is found before anything slow is imported."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, field_validator, model_validator

from nemo_mm_align.core.configuration import Count, Natural, NotNegative, Positive, StrictModel
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.inference.model_settings import FinishedModelSettings
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.serving.asked_attributes import check_some
from nemo_mm_align.serving.errors import ApiError

ModelName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\s,@]+$")]
"""It goes into headers, labels and logs; behind @ stands what is asked for."""


class HttpLimits(StrictModel):
    """What a connection and a request may take of bytes and time; the comments in ``conf/serve.yaml`` say what each means."""

    body_bytes: Count
    body_seconds: Positive
    header_seconds: Positive
    idle_seconds: Positive
    keep_alive_seconds: Positive
    request_seconds: Positive


class RequestLimits(HttpLimits):
    """The same, with what a request may ask for."""

    image_bytes: Count
    image_pixels: Count
    images: Natural
    text_characters: Count
    choices: Count
    max_tokens: Count | None
    fetch_seconds: Positive
    kept_image_bytes: Natural

    @property
    def http(self) -> HttpLimits:
        """What concerns HTTP alone."""
        return HttpLimits(**{name: getattr(self, name) for name in HttpLimits.model_fields})


class ServeSettings(FinishedModelSettings):
    """``conf/serve.yaml``; the comments there say what each means."""

    name: ModelName | None = None
    aliases: dict[ModelName, dict[str, Any] | None] | None = None
    attribute_schema: AttributeSchema | None = None
    attributes: dict[str, Any] = {}
    ask_defaults: Literal["auto"] | StrictBool = "auto"
    host: str
    port: Annotated[int, Field(ge=0, le=65535)]
    api_key_file: Path | None = None
    api_key_variable: str | None = None
    allowed_origins: list[str] = []
    allowed_image_hosts: list[str] = []
    playground: StrictBool = True
    scorer: Path | None = None
    slots: Count
    length: Count | None = None
    kept: Natural
    max_waiting: Count
    prefill_positions: Count
    cuda_graphs: StrictBool | None = None
    readers: Count
    temperature: NotNegative
    top_p: Annotated[float, Field(gt=0, le=1)]
    top_k: Natural
    max_new_tokens: Count
    drain_seconds: Positive
    limits: RequestLimits

    @field_validator("allowed_origins")
    @classmethod
    def _origins_are_such(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            if origin != "*" and (origin.count("/") != 2 or not origin.startswith(("http://", "https://"))):
                raise ValueError(
                    f"holds {origin!r}; an origin is http(s)://HOST or http(s)://HOST:PORT, without a path"
                )
        return origins

    @model_validator(mode="after")
    def _graphs_are_of_one_rank(self) -> ServeSettings:
        if self.cuda_graphs and self.tensor_model_parallel_size * self.pipeline_model_parallel_size > 1:
            raise ValueError("cuda_graphs=true is for a model on one GPU; give null, or both model-parallel sizes 1")
        return self

    @property
    def served_name(self) -> str:
        """The name given, else that of the model's folder."""
        return self.name or re.sub(r"[\s,@]+", "-", self.checkpoint.resolve().name) or "model"

    @property
    def sampling(self) -> SamplingSettings:
        """What holds where a request says nothing."""
        return SamplingSettings(
            temperature=self.temperature, top_p=self.top_p, top_k=self.top_k, max_new_tokens=self.max_new_tokens
        )

    def asks(self, trained: bool) -> bool:
        """Whether a request that says nothing of attributes is asked for the defaults.

        Args:
            trained: whether the model was trained to be asked.
        """
        return bool(self.attributes) or (trained if self.ask_defaults == "auto" else self.ask_defaults)

    def check_asked(self, schema: AttributeSchema | None) -> None:
        """Raise `UserError` for attributes of the settings that the model cannot be asked for."""
        aliases = self.aliases or {}
        if self.served_name in aliases:
            raise UserError(f"aliases: {self.served_name} is the model's own name; give another one.")
        own = {f"aliases.{name}": values for name, values in aliases.items()}
        for where, values in {"attributes": self.attributes, **own}.items():
            try:
                if values:
                    check_some(schema, values, where)
            except ApiError as error:
                raise UserError(f"{error.message} attribute_schema=NAME asks a model whose folder names none.") from None
