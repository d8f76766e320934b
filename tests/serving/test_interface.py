"""The server's interface as its document states it: paths, what a request has, bounds and defaults, and what is answered.

After a change that is meant: ``PETIOLE_SNAPSHOT=1 pytest tests/serving/test_interface.py``, and say so in the changelog.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
from builders.snapshot import kept
from petiole.serving.app import create_app
from petiole.serving.limits import Limits
from petiole.serving.pages import page_router
from petiole.serving.teach.routes import teach_router
from petiole.serving.telemetry import Telemetry

FILE = Path(__file__).with_name("interface.json")
STATED = {"type", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems", "minLength",
          "maxLength", "pattern", "default", "required", "enum", "const", "items", "properties", "anyOf", "$ref", "schema", "examples",
          "additionalProperties"}  # fmt: skip
"""What of a schema is our word; the rest is the framework's way to write it."""


def stated(schema: Any) -> Any:
    if isinstance(schema, list):
        return [stated(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if key in STATED}
    return {
        key: {name: stated(one) for name, one in value.items()} if key == "properties" else stated(value)
        for key, value in kept.items()
    }  # fmt: skip


def of_operation(one: dict[str, Any]) -> dict[str, Any]:
    body = one.get("requestBody", {})
    return {
        "parameters": [[p["name"], p["in"], p.get("required", False), stated(p["schema"])] for p in one.get("parameters", ())],
        "body": [body.get("required", False), {kind: stated(what.get("schema", {})) for kind, what in body.get("content", {}).items()}],
        "answers": {code: [told["description"], sorted(told.get("content", {}))] for code, told in one["responses"].items()},
    }  # fmt: skip


def test_the_interface_is_as_it_was_promised() -> None:
    service: Any = SimpleNamespace(limits=Limits(), telemetry=Telemetry(), engine="auto")
    lessons: Any = SimpleNamespace()
    pages = page_router(service, runs=Path("runs"), teaches=True, training=True)
    document = create_app(service, routers=[pages, teach_router(service, lessons)]).openapi()
    now = {
        f"{verb} {path}": of_operation(one)
        for path, verbs in document["paths"].items()
        for verb, one in verbs.items()
    }
    schemas = document["components"]["schemas"]
    now |= {f"schema {name}": stated(one) for name, one in schemas.items()}
    now = json.loads(json.dumps(now))
    for name, value in kept(FILE, now).items():
        assert now[name] == value, name
