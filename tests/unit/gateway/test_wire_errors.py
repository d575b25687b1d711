"""The wire form of errors."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.gateway.errors import Internal, answer_to, as_allod_error, error_frame, openai_error
from allod.sdk.errors import AllodError, BadRequest, EngineGone, ModelNotFound, QueueFull, Unauthorized


def test_openais_object_on_v1() -> None:
    error = ModelNotFound("There is none.", fix="Choose another.", param="model")
    status, body, headers = answer_to(error, "/v1/chat/completions")
    assert (status, dict(headers)) == (404, {b"content-type": b"application/json"})
    assert json.loads(body) == {
        "error": {
            "message": "There is none. Choose another.",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
            "source": "gateway",
        }
    }


@pytest.mark.parametrize("path", ["/api/keys", "/", "/v1", "/v10/x", "/health"])
def test_problem_details_elsewhere(path: str) -> None:
    status, body, headers = answer_to(BadRequest("Wrong.", fix="Right it.", param="name"), path)
    assert (status, dict(headers)) == (400, {b"content-type": b"application/problem+json"})
    assert json.loads(body) == {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "code": "invalid_request",
        "detail": "Wrong.",
        "fix": "Right it.",
        "param": "name",
    }


@pytest.mark.parametrize(("seconds", "said"), [(5, b"5"), (0.1, b"1"), (0, b"1"), (2.6, b"3")])
def test_when_to_try_again(seconds: float, said: bytes) -> None:
    headers = dict(answer_to(QueueFull("Full.", retry_after_s=seconds), "/v1/x")[2])
    assert headers[b"retry-after"] == said
    assert b"retry-after" not in dict(answer_to(QueueFull("Full."), "/v1/x")[2])


def test_how_to_show_who_one_is() -> None:
    assert dict(answer_to(Unauthorized("Who?"), "/api/keys")[2])[b"www-authenticate"] == b"Bearer"


def test_who_failed() -> None:
    sources = [
        openai_error(error)["error"]["source"] for error in (BadRequest("a"), QueueFull("b"), EngineGone("c"))
    ]
    assert sources == ["gateway", "scheduler", "engine"]


def test_an_error_in_mid_stream_is_a_frame() -> None:
    frame = error_frame(EngineGone("It ended."))
    assert frame.startswith(b'data: {"error":') and frame.endswith(b"}\n\n")
    assert json.loads(frame[6:])["error"]["code"] == "engine_gone"


def test_an_error_on_purpose_is_itself() -> None:
    error = AllodError("x")
    assert as_allod_error(error) is error


def test_a_mistake_gives_nothing_away(caplog: pytest.LogCaptureFixture) -> None:
    secret = "what the user wrote"
    with caplog.at_level(logging.DEBUG):
        try:
            raise KeyError(secret)
        except KeyError as error:
            known = as_allod_error(error)
    assert isinstance(known, Internal)
    _, body, _ = answer_to(known, "/v1/x")
    assert secret.encode() not in body
    (record,) = caplog.records
    assert "KeyError" in record.getMessage() and "test_wire_errors.py" in record.getMessage()
    assert secret not in caplog.text


@given(st.text(), st.text(), st.text())
def test_any_text_makes_valid_json(detail: str, fix: str, param: str) -> None:
    error = BadRequest(detail, fix=fix, param=param)
    for path in ("/v1/x", "/api/x"):
        json.loads(answer_to(error, path)[1])
    assert error_frame(error).count(b"\n") == 2
