"""What goes wrong is said in one form, and who may come in."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from allod.testing.server import RunningServer, free_port, running_server
from tests.http_client import CHAT, chat, frames_in, get, opened, post, request, user

ERROR_KEYS = {"message", "type", "param", "code", "source"}


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b'{"a":', {}, 400, "invalid_request"),
        (b"[1]", {}, 400, "invalid_request"),
        (b"", {}, 400, "invalid_request"),
        (b'{"messages": "\\ud800"}', {}, 400, "invalid_request"),
        (b"hi", {"Content-Type": "text/plain"}, 415, "unsupported_content_type"),
    ],
)
def test_bodies_that_are_none(
    server: RunningServer, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    reply = request(server, "POST", CHAT, body, headers)
    assert (reply.status, reply.error["code"]) == (status, code)
    assert set(reply.error) == ERROR_KEYS
    assert reply.error["source"] == "gateway"


def test_a_body_over_the_limit_is_413_and_read_to_its_end(server: RunningServer) -> None:
    reply = request(server, "POST", CHAT, b'{"a": "' + b"x" * (65 << 20) + b'"}')
    assert (reply.status, reply.error["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": "hi"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "alien", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 9}, "temperature"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": "many"}, "max_completion_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"stop": 5}, "stop"),
        ({"seed": "x"}, "seed"),
        ({"logit_bias": {"1": 1000}}, "logit_bias"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 30}, "top_logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "zzz"}},
                }
            },
            "response_format",
        ),
        ({"grammar": "root ::= ((("}, "grammar"),
        ({"top_k": "x"}, "top_k"),
        ({"mirostat": 5}, "mirostat"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"store": "x"}, "store"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"frobnicate": 1}, "frobnicate"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_wrong_field_is_named(
    server: RunningServer, fields: dict[str, Any], param: str, stream: bool
) -> None:
    reply = chat(server, **{"stream": stream, **fields})
    assert reply.status == 400, reply.body
    assert set(reply.error) == ERROR_KEYS
    assert (reply.error["type"], reply.error["param"]) == ("invalid_request_error", param)


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1/a.png", "https://example.org/a.png", "file:///etc/passwd", "/a"]
)
def test_images_are_never_fetched(server: RunningServer, url: str) -> None:
    content = [{"type": "image_url", "image_url": {"url": url}}]
    reply = chat(server, messages=[{"role": "user", "content": content}])
    assert reply.status == 400
    assert reply.error["param"] == "messages[0].content[0].image_url.url"


def test_a_model_that_cannot_see_says_so(server: RunningServer) -> None:
    content = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    reply = chat(server, messages=[{"role": "user", "content": content}])
    assert (reply.status, reply.error["code"]) == (400, "unsupported_parameter")


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_longer_than_the_context_says_both_numbers(server: RunningServer, stream: bool) -> None:
    reply = chat(server, "word " * 9000, stream=stream)
    assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")
    assert re.search(r"90\d\d tokens.* 8192", reply.error["message"])


def test_prompt_and_answer_over_the_context_end_with_length(tmp_path: Path) -> None:
    with running_server(tmp_path / "home", settings="[llamacpp]\ncontext_tokens = 256\n") as small:
        reply = chat(small, "word " * 150, max_tokens=5000, ignore_eos=True)
        assert reply.status == 200, reply.body
        assert reply.json["choices"][0]["finish_reason"] == "length"
        assert 200 < reply.json["usage"]["total_tokens"] <= 256
        streamed = frames_in(
            post(small, CHAT, {"messages": user("Hi"), "stream": True, "ignore_eos": True}).body
        )
        assert streamed[-1]["choices"][0]["finish_reason"] == "length"


def test_routes_that_are_none(server: RunningServer) -> None:
    reply = get(server, "/v1/nope")
    assert (reply.status, reply.error["code"]) == (404, "not_found")
    reply = get(server, CHAT)
    assert (reply.status, reply.error["code"]) == (405, "method_not_allowed")
    reply = get(server, "/api/nope")
    assert reply.status == 404
    assert reply.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "code"} <= set(reply.json)
    reply = post(server, "/api/llamacpp/models", {"path": 5})
    assert reply.status == 400
    assert reply.headers["content-type"] == "application/problem+json"


def test_no_error_shows_a_path_or_the_engines_text(server: RunningServer) -> None:
    for fields in ({"grammar": "root ::= ((("}, {"top_k": "x"}, {"messages": user("word " * 9000)}):
        text = chat(server, **fields).body.decode()
        assert str(server.home) not in text
        assert ".gguf" not in text
        assert "site-packages" not in text


# doors


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.1:1337", ""])
def test_a_foreign_host_name_is_refused(server: RunningServer, host: str) -> None:
    assert get(server, "/v1/models", {"Host": host}).status == 403
    assert get(server, "/health", {"Host": host}).status == 403


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1337", "127.0.0.1:80", "[::1]:1337", "me.localhost"]
)
def test_local_names_are_welcome(server: RunningServer, host: str) -> None:
    assert get(server, "/v1/models", {"Host": host}).status == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:3000"])
def test_a_foreign_origin_is_refused(server: RunningServer, origin: str) -> None:
    reply = request(server, "POST", CHAT, {"messages": user("hi")}, {"Origin": origin})
    assert (reply.status, reply.error["code"]) == (403, "forbidden")
    assert "access-control-allow-origin" not in reply.headers


def test_a_page_of_another_site_is_refused_even_without_origin(server: RunningServer) -> None:
    assert get(server, "/v1/models", {"Sec-Fetch-Site": "cross-site"}).status == 403
    assert get(server, "/v1/models", {"Sec-Fetch-Site": "same-origin"}).status == 200


def test_an_allowed_origin_gets_cors(tmp_path: Path) -> None:
    settings = '[server]\nallowed_origins = ["http://localhost:3000"]\npreload = false\n'
    with running_server(tmp_path / "home", settings=settings) as open_server:
        origin = {"Origin": "http://localhost:3000"}
        before = request(open_server, "OPTIONS", CHAT, None, origin)
        assert before.status == 204
        assert before.headers["access-control-allow-origin"] == "http://localhost:3000"
        assert get(open_server, "/v1/models", origin).headers["access-control-allow-origin"]
        assert get(open_server, "/v1/models", {"Origin": "http://localhost:3001"}).status == 403


def test_keys_where_they_are_required(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with running_server(home, settings="[server]\nrequire_key = true\npreload = false\n") as shut:
        own = json.loads((home / "run" / "server.json").read_text())["key"]
        made = request(shut, "POST", "/api/keys", {"name": "test"}, {"Authorization": f"Bearer {own}"})
        secret = made.json["key"]
        reply = get(shut, "/v1/models")
        assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
        assert reply.headers["www-authenticate"] == "Bearer"
        assert get(shut, "/v1/models", {"Authorization": "Bearer wrong"}).status == 401
        assert get(shut, "/metrics", as_owner=False).status == 401
        assert get(shut, "/health").status == 200
        assert get(shut, "/v1/models", {"Authorization": f"Bearer {secret}"}).status == 200
        assert get(shut, "/v1/models", {"X-Api-Key": secret}).status == 200
        assert not (home / "api_keys.json").exists()  # as hashes, in the store


def start(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "allod", "serve", *arguments]
    return subprocess.run(
        command,
        env={
            "ALLOD_HOME": str(home),
            "PATH": "/usr/bin:/bin",
            "XDG_CONFIG_HOME": os.environ["XDG_CONFIG_HOME"],
        },
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_beyond_loopback_a_key_must_exist(home: Path) -> None:
    refused = start(home, "--host", "0.0.0.0", "--port", str(free_port()))
    assert refused.returncode != 0
    assert "allod keys create" in refused.stderr


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def test_a_port_that_is_taken_names_its_holder(home: Path, family: socket.AddressFamily) -> None:
    with socket.socket(family) as holder:
        holder.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        holder.listen()
        refused = start(home, "--port", str(holder.getsockname()[1]))
    assert refused.returncode != 0
    assert "--port" in refused.stderr
    assert f"pid {os.getpid()}" in refused.stderr


def test_it_listens_on_both_kinds_of_localhost(server: RunningServer) -> None:
    for address in ("127.0.0.1", "::1"):
        with socket.create_connection((address, server.port), timeout=5):
            pass


# what operators ask


def test_health_metrics_and_docs(server: RunningServer) -> None:
    assert chat(server).status == 200
    for path in ("/health", "/health/live", "/health/ready"):
        assert get(server, path).status == 200
    metrics = get(server, "/metrics").body.decode()
    assert re.search(r"allod_\w*tokens\w*\{.*output.*\} [1-9]", metrics)
    assert get(server, "/openapi.json").json["openapi"].startswith("3.")
    assert get(server, "/docs").status == 200


def test_no_served_byte_names_an_outside_address(server: RunningServer) -> None:
    page = get(server, "/docs").body.decode()
    served = [page, get(server, "/openapi.json").body.decode()]
    served += [get(server, path).body.decode() for path in re.findall(r'(?:src|href)="(/[^"]+)"', page)]
    assert len(served) >= 4
    for text in served:
        outside = set(re.findall(r"https?://[^\s\"'<>)]+", text)) - {"http://localhost:1337"}
        assert not outside


def test_the_head_of_a_stream_leaves_before_the_prompt_is_read(server: RunningServer) -> None:
    body = {"messages": user("word " * 3000), "stream": True, "max_tokens": 2, "cache_prompt": False}
    with opened(server, CHAT, body) as connection:
        answer = connection.getresponse()
        assert answer.status == 200
        first = answer.readline()
        assert first.startswith(b":")  # a comment: no token of so long a prompt can be there yet
        assert b"[DONE]" in answer.read()


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": user("hi"), "logit_bias": {"99999999": 1}}, "logit_bias"),
        ("/v1/completions", {"prompt": [99_999_999]}, "prompt"),
        ("/v1/embeddings", {"input": [99_999_999]}, "input"),
        ("/v1/detokenize", {"tokens": [99_999_999]}, "tokens"),
    ],
)
def test_a_token_that_is_none_is_named(server: RunningServer, path: str, body: Any, param: str) -> None:
    reply = post(server, path, body)
    assert (reply.status, reply.error["param"]) == (400, param), reply.body
    assert "99999999" in reply.error["message"]
