"""The OpenAPI document: FastAPI's routes of all applications, and the raw ones of /v1."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI

from allod.gateway.v1 import ROUTES


def document(apps: Sequence[FastAPI]) -> dict[str, Any]:
    """One document of all; its head is the first application's."""
    whole: dict[str, Any] = json.loads(json.dumps(apps[0].openapi()))
    schemas = whole.setdefault("components", {}).setdefault("schemas", {})
    for app in apps[1:]:
        more = json.loads(json.dumps(app.openapi()))
        whole["paths"] |= more["paths"]
        schemas |= more.get("components", {}).get("schemas", {})
    for path, (handler, body) in ROUTES.items():
        schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[body.__name__] = schema
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}}
        whole["paths"].setdefault(path, {})["post"] = {
            "tags": ["OpenAI"],
            "summary": inspect.getdoc(handler),
            "requestBody": {"required": True, "content": content},
            "responses": {
                "200": {"description": "The answer: JSON, or server-sent events where `stream` is true."},
                "default": {"description": 'An error: {"error": {message, type, param, code, source}}.'},
            },
        }
    for operations in whole["paths"].values():
        for operation in operations.values():
            operation["responses"].pop(
                "422", None
            )  # FastAPI's own, which is never sent: see api._of_validation
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    return whole
