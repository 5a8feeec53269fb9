"""The contracts in schema/json, ready to check documents with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

_FOLDER = Path(__file__).parents[1] / "schema" / "json"

SCHEMAS: dict[str, Any] = {path.name: json.loads(path.read_text()) for path in sorted(_FOLDER.glob("*.json"))}
REGISTRY: Registry[Any] = Registry().with_resources(
    (schema["$id"], Resource.from_contents(schema)) for schema in SCHEMAS.values()
)


def check(document: object, name: str, part: str = "") -> None:
    """Raise ValidationError unless the document is what schema/json/NAME.schema.json describes, or a part of it."""
    identifier = SCHEMAS[f"{name}.schema.json"]["$id"]
    Draft202012Validator({"$ref": identifier + part}, registry=REGISTRY).validate(document)
