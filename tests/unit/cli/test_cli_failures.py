"""From an error to its exit code, and to words."""

from __future__ import annotations

import pytest

from allod.cli.failures import Exit, from_answer, from_error
from allod.sdk import errors


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, Exit.BAD_REQUEST),
        (401, Exit.NOT_ALLOWED),
        (403, Exit.NOT_ALLOWED),
        (404, Exit.NOT_FOUND),
        (405, Exit.BAD_REQUEST),
        (413, Exit.BAD_REQUEST),
        (415, Exit.BAD_REQUEST),
        (423, Exit.NOT_ALLOWED),
        (429, Exit.BUSY),
        (500, Exit.UNEXPECTED),
        (502, Exit.ENGINE_FAILED),
        (503, Exit.NOT_LOADED),
        (507, Exit.NOT_LOADED),
    ],
)
def test_a_status_has_its_exit_code(status: int, code: Exit) -> None:
    failure = from_answer(status, {"error": {"message": "no", "code": "x"}})
    assert (failure.detail, failure.exit_code) == ("no", code)


@pytest.mark.parametrize(
    "kind",
    [errors.ContextTooLong, errors.EngineGone, errors.LoadFailed, errors.ModelNotFound, errors.QueueFull],
)
def test_an_error_in_mid_stream_has_the_exit_code_of_its_status(kind: type[errors.AllodError]) -> None:
    in_stream = from_error({"message": "no", "code": kind.code})
    assert in_stream.exit_code == from_answer(kind.status, {"error": {"message": "no"}}).exit_code


def test_an_unknown_code_in_mid_stream_is_unexpected() -> None:
    assert from_error({"code": "from_the_future"}).exit_code == Exit.UNEXPECTED


def test_problem_details_are_read() -> None:
    failure = from_answer(404, {"title": "Not found", "detail": "No key.", "fix": "List them."})
    assert (failure.detail, failure.fix, failure.exit_code) == ("No key.", "List them.", Exit.NOT_FOUND)
    assert from_answer(404, {"title": "Not found"}).detail == "Not found"


@pytest.mark.parametrize("body", [None, [], "text", {"error": "text"}])
def test_an_answer_in_no_form_is_told_by_its_status(body: object) -> None:
    assert from_answer(502, body).detail == "The server answered with status 502 Bad Gateway."
    assert from_answer(599, body).detail == "The server answered with status 599."


def test_who_has_no_key_is_told_where_to_put_one() -> None:
    assert "ALLOD_API_KEY" in from_answer(401, None).fix
