"""The only place that makes wire form of errors: OpenAI's object on /v1, problem details (RFC 9457) elsewhere."""

from __future__ import annotations

import http
import logging
from typing import Any

import orjson

from allod.gateway.exchange import Headers
from allod.sdk.errors import AllodError

_log = logging.getLogger("allod.gateway")


class Internal(AllodError):
    """A mistake of ours. What it was stands in the log, by its type and place only."""


def as_allod_error(error: BaseException) -> AllodError:
    """`error` itself, or, where it is no error that was raised on purpose, one that gives nothing away."""
    if isinstance(error, AllodError):
        return error
    # the traceback without the exception's own text, which may quote a request
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}")
        trace = trace.tb_next
    _log.error("unexpected %s at %s", type(error).__name__, " < ".join(reversed(frames[-4:])))
    return Internal("Something went wrong inside Allod.", fix="The server's log says where.")


def openai_error(error: AllodError) -> dict[str, Any]:
    """OpenAI's error object, with `source`: gateway, scheduler or engine."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
            "source": error.source,
        }
    }


def problem(error: AllodError) -> dict[str, Any]:
    """Problem details."""
    return {
        "type": "about:blank",
        "title": http.HTTPStatus(error.status).phrase,
        "status": error.status,
        "code": error.code,
        "detail": error.detail,
        "fix": error.fix,
        "param": error.param,
    }


def answer_to(error: AllodError, path: str) -> tuple[int, bytes, Headers]:
    """Status, body and headers of an error's answer at `path`."""
    headers: list[tuple[bytes, bytes]] = []
    if path.startswith("/v1/"):
        body, kind = openai_error(error), b"application/json"
    else:
        body, kind = problem(error), b"application/problem+json"
    headers.append((b"content-type", kind))
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, round(error.retry_after_s))).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return error.status, orjson.dumps(body), headers


def error_frame(error: AllodError) -> bytes:
    """An error in a stream that has begun."""
    return b"data: " + orjson.dumps(openai_error(error)) + b"\n\n"
