"""An assistant as one file: JSON with a versioned schema, which says all of its present version.

Older versions stay here: what is given to others is what is shown, and not what was written before. Models, tools and
knowledge are named, not packed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from allod.extensions.assistant.content import Content, content_of
from allod.sdk.errors import BadRequest

_KIND = "assistant"
_SCHEMA = 1
_PLAIN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"


def exported(content: Content) -> dict[str, Any]:
    """The file's JSON object."""
    return {"allod": _KIND, "schema": _SCHEMA, "assistant": content.model_dump()}


def file_name(content: Content) -> str:
    """The file's name as a header says it (RFC 8187)."""
    name = f"{content.name}.assistant.json".encode()
    plain = b"".join(bytes([byte]) if byte in _PLAIN else b"%%%02X" % byte for byte in name)
    return f"UTF-8''{plain.decode()}"


def imported(file: Mapping[str, Any]) -> Content:
    """What a file holds. Raises BadRequest, which names the field that is wrong."""
    if file.get("allod") != _KIND:
        raise BadRequest(
            "allod: this is not the file of an assistant.",
            fix=f'Such a file has "allod": "{_KIND}"; `allod assistants export` writes one.',
            param="allod",
        )
    schema = file.get("schema")
    if type(schema) is not int or schema < 1:
        raise BadRequest(
            "schema: must be a whole number from 1 on.", fix=f"This version writes {_SCHEMA}.", param="schema"
        )
    if schema > _SCHEMA:
        raise BadRequest(
            f"schema: the file is of schema {schema}; this version reads up to {_SCHEMA}.",
            fix="Import it with a newer Allod.",
            param="schema",
        )
    for name in file:
        if name not in ("allod", "schema", "assistant"):
            said = ascii(name[:60])
            raise BadRequest(
                f"{said}: such a file has no such field.", fix="Take it out.", param=said.strip("'")
            )
    if not isinstance(file.get("assistant"), dict):
        raise BadRequest("assistant: must be an object.", fix="Export it again.", param="assistant")
    return content_of(file["assistant"], "assistant")
