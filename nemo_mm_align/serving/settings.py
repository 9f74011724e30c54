"""What the user can set of a server; needs no torch, so that a mistake is found before anything slow is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, field_validator, model_validator

from nemo_mm_align.core.configuration import Count, Natural, Positive, StrictModel
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.serving.host_names import host_name
from nemo_mm_align.serving.offer_settings import ModelName, OfferSettings
from nemo_mm_align.serving.scorer_settings import ScorerSettings


class HttpLimits(StrictModel):
    """What a connection and a request may take of bytes and time; the comments in ``conf/serve.yaml`` say what each means."""

    body_bytes: Count
    body_seconds: Positive
    header_seconds: Positive
    idle_seconds: Positive
    keep_alive_seconds: Positive
    request_seconds: Positive
    connections: Count


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
    kept_embedding_bytes: Natural

    @property
    def http(self) -> HttpLimits:
        """What concerns HTTP alone."""
        return HttpLimits(**{name: getattr(self, name) for name in HttpLimits.model_fields})


class ServeSettings(OfferSettings):
    """``conf/serve.yaml``; the comments there say what each means."""

    aliases: dict[ModelName, dict[str, Any] | None] | None = None
    host: str
    port: Annotated[int, Field(ge=0, le=65535)]
    api_key_file: Path | None = None
    api_key_variable: str | None = None
    allowed_origins: list[str] = []
    allowed_hosts: list[str] = []
    allowed_image_hosts: list[str] = []
    playground: StrictBool = True
    scorer: Literal["oracle"] | ScorerSettings | None = None
    max_waiting: Count
    prefill_positions: Count
    readers: Count
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

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts_are_names(cls, hosts: list[str]) -> list[str]:
        for host in hosts:
            if not host or host.lower() != host_name(host) or set(host) & set("/*@ "):
                raise ValueError(
                    f"holds {host!r}; give a name as it stands in addresses, without http://, port and path"
                )
        return hosts

    @model_validator(mode="after")
    def _what_nobody_asked_for_may_be_had(self) -> ServeSettings:
        most = self.limits.max_tokens
        if most is not None and self.max_new_tokens > most:
            raise ValueError(
                f"max_new_tokens={self.max_new_tokens} is above limits.max_tokens={most}; lower the one or raise the other"
            )
        return self

    def asked_for(self) -> dict[str, dict[str, Any] | None]:
        """Attributes that the settings name, by where they stand."""
        own = {f"aliases.{name}": values for name, values in (self.aliases or {}).items()}
        return {**super().asked_for(), **own}

    def check_asked(self, schema: AttributeSchema | None) -> None:
        """Raise `UserError` for attributes of the settings that the model cannot be asked for."""
        if self.served_name in (self.aliases or {}):
            raise UserError(f"aliases: {self.served_name} is the model's own name; give another one.")
        super().check_asked(schema)
