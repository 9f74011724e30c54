"""Strict JSON schemas of what the launcher writes for Kubernetes, out of the projects' own Python packages.

``kubernetes`` (Apache-2.0) describes Job and Pod as pydantic models that refuse unknown keys; ``kubeflow-training``
(Apache-2.0, generated from the training operator's Go types as the PyTorchJob CRD is) names keys, types and, in its
setters, what is mandatory.
"""

from __future__ import annotations

import re
from functools import cache
from types import SimpleNamespace
from typing import Any

import kubernetes.client
from kubeflow.training import models

Schema = dict[str, Any]

_PLAIN: dict[str, Schema] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "bool": {"type": "boolean"},
    "datetime": {"type": "string"},
    "Quantity": {"type": ["string", "integer"]},
}


@cache
def job_schema() -> Schema:
    """Schema of batch/v1 Job."""
    return kubernetes.client.V1Job.model_json_schema(by_alias=True) | {"required": ["apiVersion", "kind", "spec"]}


@cache
def schema_of(kind: str) -> Schema:
    """Schema of one of Kubernetes' own kinds in its first version, by its name as ``Deployment``."""
    model = getattr(kubernetes.client, f"V1{kind}")
    return model.model_json_schema(by_alias=True) | {"required": ["apiVersion", "kind", "metadata", "spec"]}


@cache
def pytorch_job_schema() -> Schema:
    """Schema of kubeflow.org/v1 PyTorchJob."""
    definitions: dict[str, Schema] = {}
    root = _model("KubeflowOrgV1PyTorchJob", definitions)
    return {**root, "$defs": definitions, "required": ["apiVersion", "kind", "spec"]}


def _model(name: str, definitions: dict[str, Schema]) -> Schema:
    """Schema of one of the operator's own types; the types that it uses go into `definitions`."""
    kind = getattr(models, name)
    keys = kind.attribute_map
    properties = {keys[attribute]: _type(text, definitions) for attribute, text in kind.openapi_types.items()}
    required = [keys[attribute] for attribute in keys if _is_mandatory(getattr(kind, attribute))]
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": required}


def _is_mandatory(attribute: property) -> bool:
    validating = SimpleNamespace(local_vars_configuration=SimpleNamespace(client_side_validation=True))
    try:
        attribute.fset(validating, None)
    except ValueError:
        return True
    return False


def _type(text: str, definitions: dict[str, Schema]) -> Schema:
    if text in _PLAIN:
        return _PLAIN[text]
    inner = re.fullmatch(r"(dict\(str, |list\[)(\S+)[)\]]", text)
    if inner and inner[1].startswith("dict"):
        return {"type": "object", "additionalProperties": _type(inner[2], definitions)}
    if inner:
        return {"type": "array", "items": _type(inner[2], definitions)}
    if hasattr(models, text) and text.startswith("Kubeflow"):
        if text not in definitions:
            definitions[text] = {}
            definitions[text] = _model(text, definitions)
    elif text not in definitions:
        # The operator's package writes some names with their Go package: K8sIoApiAutoscalingV2MetricSpec.
        name = re.sub(r"^K8sIoApi[A-Z][a-z]+(?=V\d)", "", text)
        schema = getattr(kubernetes.client, name).model_json_schema(by_alias=True)
        definitions |= schema.pop("$defs", {})
        definitions[text] = schema
    return {"$ref": f"#/$defs/{text}"}
