"""What the user can set of a model that is offered, over HTTP or in a terminal; needs no torch."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictBool, model_validator

from nemo_mm_align.core.configuration import Count, Natural, NotNegative
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.inference.model_settings import FinishedModelSettings
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.serving.asked_attributes import check_some
from nemo_mm_align.serving.errors import ApiError

_NOT_IN_NAMES = re.compile(r"[\s,@]+")


def _checked_name(name: str) -> str:
    found = _NOT_IN_NAMES.search(name)
    if found:
        raise ValueError(
            f"{name!r} holds {found[0]!r}; a model's name has no white space, comma or @, behind which stands what is asked for. "
            "MODEL@verbosity=0 is understood without an alias"
        )
    return name


ModelName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_checked_name)]
"""It goes into headers, labels and logs."""


class OfferSettings(FinishedModelSettings):
    """What ``conf/serve.yaml`` and ``conf/chat.yaml`` share; the comments there say what each means."""

    name: ModelName | None = None
    attribute_schema: AttributeSchema | None = None
    attributes: dict[str, Any] = {}
    ask_defaults: Literal["auto"] | StrictBool = "auto"
    slots: Count | None
    length: Count | None = None
    kept: Natural
    cuda_graphs: StrictBool | None = None
    merge_adapters: StrictBool | Literal["auto"] = "auto"
    temperature: NotNegative
    top_p: Annotated[float, Field(gt=0, le=1)]
    top_k: Natural
    max_new_tokens: Count

    @model_validator(mode="after")
    def _graphs_are_of_one_rank(self) -> OfferSettings:
        if self.cuda_graphs and self.tensor_model_parallel_size * self.pipeline_model_parallel_size > 1:
            raise ValueError("cuda_graphs=true is for a model on one GPU; give null, or both model-parallel sizes 1")
        return self

    @property
    def served_name(self) -> str:
        """The name given, else that of the model's folder."""
        return self.name or _NOT_IN_NAMES.sub("-", self.checkpoint.resolve().name) or "model"

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

    def asked_for(self) -> dict[str, dict[str, Any] | None]:
        """Attributes that the settings name, by where they stand."""
        return {"attributes": self.attributes}

    def check_asked(self, schema: AttributeSchema | None) -> None:
        """Raise `UserError` for attributes of the settings that the model cannot be asked for."""
        for where, values in self.asked_for().items():
            try:
                if values:
                    check_some(schema, values, where)
            except ApiError as error:
                raise UserError(
                    f"{error.message} attribute_schema=NAME asks a model whose folder names none."
                ) from None
