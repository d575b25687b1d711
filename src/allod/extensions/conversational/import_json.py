"""Reads the files that export_json.py writes, and trusts nothing in them.

Whoever keeps the threads gives them ids of their own, and their blobs too: an id in a file is a name within it.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from allod.extensions.conversational.exported import SCHEMA, ExportedThread, Time
from allod.extensions.conversational.parts import first_mistake
from allod.sdk.errors import BadRequest


class _Head(BaseModel):
    """What any version writes."""

    model_config = ConfigDict(hide_input_in_errors=True)

    allod: Literal["threads"]
    schema_number: Annotated[int, Field(alias="schema", ge=1, strict=True)]


class _File(_Head):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    exported_at: Time
    threads: list[ExportedThread]


def read_threads(data: bytes) -> list[ExportedThread]:
    """The threads in an exported file, each a sound tree.

    Raises BadRequest for what is no such file, is of a newer version, or has a mistake: by the number of the thread,
    which counts from 1, and the field, without a word of what is in it.
    """
    try:
        head = _Head.model_validate_json(data)
    except ValidationError as error:
        raise _no_export(error) from None
    if head.schema_number > SCHEMA:
        raise BadRequest(
            f"The file has the schema {head.schema_number}; this version of Allod reads up to {SCHEMA}.",
            fix="Import it with a newer version of Allod.",
            param="schema",
        )
    try:
        return _File.model_validate_json(data, strict=True).threads
    except ValidationError as error:
        raise _mistake(error) from None


def _no_export(error: ValidationError) -> BadRequest:
    place, reason = first_mistake(error)
    said = f"{place}: {reason}" if place else reason
    return BadRequest(
        f"The file is no export of Allod's threads. {said}.",
        fix='Export with `allod threads export`, or choose a file that begins with {"allod": "threads".',
        param=place or None,
    )


def _mistake(error: ValidationError) -> BadRequest:
    place, reason = first_mistake(error)
    said = f"{place}: {reason}."
    if in_thread := re.match(r"threads\[(\d+)\]\.?", place):
        field = place[in_thread.end() :]
        said = f"Thread {int(in_thread[1]) + 1}: {f'{field}: ' if field else ''}{reason}."
    return BadRequest(
        said, fix="Correct the file, or export it again. Nothing was imported.", param=place or None
    )
