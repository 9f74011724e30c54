"""Typed settings of Kubernetes; what each means stands in ``conf/cluster/k8s.yaml``.

What the API server would refuse, or worse the training operator where nobody looks, is refused here.
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from nemo_mm_align.core.configuration import Count, Natural, StrictModel

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|[kMGTPE]|[KMGTPE]i)?")
_SUFFIXES = {"": Decimal(1), "m": Decimal("0.001"), "k": Decimal(1000), "Ki": Decimal(1024)}
_SUFFIXES |= {letter: Decimal(1000) ** power for power, letter in enumerate("MGTPE", start=2)}
_SUFFIXES |= {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("MGTPE", start=2)}

_NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
_KEY = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"


def _text(value: Any) -> Any:
    """Kubernetes wants text where YAML reads a number or a truth value: ``sidecar.istio.io/inject: false``."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


def amount(quantity: str) -> Decimal:
    """Return what a quantity of Kubernetes amounts to: 500m is 0.5, 2Gi is 2147483648.

    Raises:
        ValueError: it is none.
    """
    found = _QUANTITY.fullmatch(quantity)
    if found is None:
        raise ValueError(f"{quantity!r} is no quantity; write 8, 500m, 64Gi")
    return Decimal(found[1]) * _SUFFIXES[found[2] or ""]


def _quantity(value: Any) -> Any:
    text = _text(value)
    if isinstance(text, str):
        amount(text)
    return text


Name = Annotated[str, Field(pattern=_NAME, max_length=253)]
Key = Annotated[str, Field(pattern=_KEY)]
Label = Annotated[str, BeforeValidator(_text), Field(pattern=_VALUE)]
Text = Annotated[str, BeforeValidator(_text)]
Quantity = Annotated[str, BeforeValidator(_quantity)]
Amounts = dict[Literal["cpu", "memory", "ephemeral-storage"], Quantity]


class InfinibandInterfaces(StrictModel):
    """Annotation and resources by which pods get InfiniBand devices."""

    annotation: str | None = None
    resources: dict[str, int] = {}


class PodResources(StrictModel):
    """What a pod asks for and may use, beside devices."""

    requests: Amounts = {}
    limits: Amounts = {}

    @model_validator(mode="after")
    def _requests_within_limits(self) -> PodResources:
        for name, limit in self.limits.items():
            request = self.requests.get(name)
            if request is not None and amount(request) > amount(limit):
                raise ValueError(f"{name}: the request {request} is more than the limit {limit}")
        return self


class Toleration(StrictModel):
    """A taint of nodes that pods put up with, as Kubernetes writes it."""

    key: Key | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: Label | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    tolerationSeconds: int | None = None

    @model_validator(mode="after")
    def _value_fits_operator(self) -> Toleration:
        if self.operator == "Exists" and self.value:
            raise ValueError("operator Exists takes no value; leave value out, or write operator Equal")
        if self.operator == "Equal" and self.key is None:
            raise ValueError("a key is needed, or operator Exists, which without a key stands for every taint")
        return self


class KubernetesCluster(StrictModel):
    """``conf/cluster/k8s.yaml``."""

    type: Literal["k8s"]
    namespace: Name = "default"
    job_name_prefix: str = ""
    gpus_per_node: Count | None = None
    gpu_resource: str = "nvidia.com/gpu"
    resources: PodResources = PodResources()
    cpu_resources: PodResources = PodResources()
    node_selector: dict[Key, Label] = {}
    cpu_node_selector: dict[Key, Label] | None = None
    tolerations: list[Toleration] = []
    priority_class: Name | None = None
    labels: dict[Key, Label] = {}
    annotations: dict[Key, Text] = {}
    pull_secret: Name | None = None
    env_secret: Name | None = None
    user: Natural | None = None
    group: Natural | None = None
    shm_size: Quantity = "512Gi"
    volumes: dict[str, dict[str, Any]] = {}
    ib_interfaces: InfinibandInterfaces = InfinibandInterfaces()
    host_network: bool = False
    dns_policy: str | None = None
    scheduler: str | None = None
    service_account: Name | None = None
    capabilities: list[str] = []
    max_requeues: Natural = 5
    termination_grace_s: Count = 300
    manifest_dir: Path
