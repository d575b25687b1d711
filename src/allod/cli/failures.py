"""Why a command ends: exit codes by kind of error, and the one way from an error to its code."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from http import HTTPStatus
from typing import Any

from allod.cli.words import say
from allod.sdk.errors import AllodError, WrongPassphrase


class Exit(IntEnum):
    """Exit codes; `docs/cli.md` lists them, so a number keeps its meaning for good."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    UNREACHABLE = 3
    BAD_REQUEST = 4
    NOT_ALLOWED = 5
    NOT_FOUND = 6
    BUSY = 7
    NOT_LOADED = 8
    ENGINE_FAILED = 9
    INTERRUPTED = 130
    BROKEN_PIPE = 141


_BY_STATUS = {
    401: Exit.NOT_ALLOWED,
    403: Exit.NOT_ALLOWED,
    404: Exit.NOT_FOUND,
    423: Exit.NOT_ALLOWED,
    429: Exit.BUSY,
    502: Exit.ENGINE_FAILED,
    503: Exit.NOT_LOADED,
    507: Exit.NOT_LOADED,
}


class Failure(Exception):
    """What happened, what to do about it, the exit code, and the status where a server answered with one."""

    def __init__(
        self, detail: str, *, fix: str = "", exit_code: Exit = Exit.UNEXPECTED, status: int | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fix = fix
        self.exit_code = exit_code
        self.status = status


def from_answer(status: int, body: Any) -> Failure:
    """The failure that an answer of the server tells of: OpenAI's error object or problem details (RFC 9457)."""
    if isinstance(body, Mapping) and isinstance(body.get("error"), Mapping):
        return from_error(body["error"], status)
    if isinstance(body, Mapping) and ("detail" in body or "title" in body):
        detail = str(body.get("detail") or body["title"])
        return _failure(detail, str(body.get("fix") or ""), status, str(body.get("code") or ""))
    reason = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    told = f"{status} {reason}".strip()
    return _failure(say("The server answered with status {status}.", status=told), "", status)


def from_error(error: Mapping[str, Any], status: int | None = None) -> Failure:
    """The failure that an `error` object tells of; in mid-stream it has no status, so its code gives the kind."""
    detail = str(error.get("message") or say("The server reported an error without words."))
    return _failure(detail, "", status or _status_of(str(error.get("code") or "")))


def from_run(error: Mapping[str, Any]) -> Failure:
    """The failure by which a run of a thread has ended; its message keeps the error as {code, detail, fix}."""
    code = str(error.get("code") or "")
    detail = str(error.get("detail") or say("The server reported an error without words."))
    return _failure(detail, str(error.get("fix") or ""), _status_of(code), code)


def of_kernel(error: AllodError) -> Failure:
    """The failure of a command that does its work without a server."""
    return _failure(error.detail, error.fix, error.status, error.code)


def _failure(detail: str, fix: str, status: int, code: str = "") -> Failure:
    exit_code = _BY_STATUS.get(status, Exit.BAD_REQUEST if 400 <= status < 500 else Exit.UNEXPECTED)
    if status == HTTPStatus.UNAUTHORIZED and code != WrongPassphrase.code:
        fix = say(
            "Put an API key into the environment variable ALLOD_API_KEY; `allod keys create NAME` makes one."
        )
    return Failure(detail, fix=fix, exit_code=exit_code, status=status)


def _status_of(code: str) -> int:
    """The status of the error in `sdk/errors.py` with this code, else 500."""
    kinds: list[type[AllodError]] = [AllodError]
    for kind in kinds:
        if kind.code == code:
            return kind.status
        kinds.extend(kind.__subclasses__())
    return 500
