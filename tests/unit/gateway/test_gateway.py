"""Doors, raw routes and FastAPI's routes, put together as a server has them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from allod.gateway import exchange, v1
from allod.gateway.dialects import openai_completions
from allod.gateway.server import Gateway
from allod.gateway.v1 import ROUTES
from allod.kernel.house import House
from allod.sdk.chat import CompletionRequest
from allod.sdk.stream import ChatEvent, Usage
from allod.testing.house import gateway_on, point, standing
from tests.unit.gateway.asgi import Answer, ask, scope


class Server:
    """A gateway without models. `key` opens everything."""

    def __init__(self, house: House, gateway: Gateway) -> None:
        self.house = house
        self.gateway = gateway
        self.metrics = house.metrics
        self.key = house.keys.create_own()

    async def ask(self, *arguments: Any, **more: Any) -> Answer:
        return await ask(self.gateway, *arguments, **more)


SETTINGS = {"server": {"max_body_mib": 1, "allowed_origins": ["http://page.example"]}}
GOOD = point("good", "tests.unit.kernel.guests:Good")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with standing(tmp_path, [GOOD], settings=SETTINGS) as house:
        yield Server(house, await gateway_on(house))


@pytest.mark.parametrize("path", ROUTES)
async def test_raw_routes_take_post_and_json(server: Server, path: str) -> None:
    assert (await server.ask("GET", path)).json["error"]["code"] == "method_not_allowed"
    assert (await server.ask("POST", path, b"{", content_type="text/plain")).status == 415
    assert (await server.ask("POST", path, b"{")).status == 400
    assert (await server.ask("POST", path, b"{}")).json["error"]["code"] == "invalid_request"
    large = await server.ask("POST", path, [b'{"a":"', b"x" * (1 << 20), b'"}'])
    assert (large.status, large.json["error"]["code"]) == (413, "body_too_large")


async def test_every_answer_carries_the_safe_headers(server: Server) -> None:
    for method, path in (("GET", "/health"), ("GET", "/nothing"), ("POST", "/v1/completions")):
        answer = await server.ask(method, path)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"


async def test_refusals_at_the_door_come_in_the_form_of_the_place(server: Server) -> None:
    on_v1 = await server.ask("POST", "/v1/completions", b"{}", host="evil.example")
    elsewhere = await server.ask("GET", "/docs", host="evil.example")
    assert (on_v1.status, on_v1.json["error"]["code"]) == (403, "forbidden")
    assert (elsewhere.status, elsewhere.json["code"]) == (403, "forbidden")
    assert elsewhere.headers["content-type"] == "application/problem+json"


async def test_an_allowed_page_may_ask_first_and_read_the_answer(server: Server) -> None:
    first = await server.ask("OPTIONS", "/v1/completions", origin="http://page.example")
    assert (first.status, first.body) == (204, b"")
    assert "authorization" in first.headers["access-control-allow-headers"]
    then = await server.ask("GET", "/health", origin="http://page.example")
    assert then.headers["access-control-allow-origin"] == "http://page.example"
    refused = await server.ask("POST", "/v1/completions", b"{", origin="http://page.example")
    assert refused.headers["access-control-allow-origin"] == "http://page.example"


async def test_the_official_client_in_an_allowed_page_may_send_its_own_headers(server: Server) -> None:
    asked = "authorization,content-type,x-stainless-lang,x-stainless-retry-count"
    first = await server.ask(
        "OPTIONS", "/v1/completions", origin="http://page.example", access_control_request_headers=asked
    )
    allowed = first.headers["access-control-allow-headers"].replace(" ", "").split(",")
    assert set(asked.split(",")) <= set(allowed)


@pytest.mark.parametrize("path", ["/health", "/health/ready", "/v1/models"])
async def test_where_get_answers_head_does(server: Server, path: str) -> None:
    assert (await server.ask("HEAD", path)).status == (await server.ask("GET", path)).status


async def test_another_page_may_not_even_ask(server: Server) -> None:
    for method in ("OPTIONS", "GET"):
        answer = await server.ask(method, "/health", origin="https://evil.example")
        assert answer.status == 403
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(("method", "status"), [("GET", 404), ("POST", 404)])
async def test_what_is_not_there(server: Server, method: str, status: int) -> None:
    assert (await server.ask(method, "/v1/nothing", b"{}")).json["error"]["code"] == "not_found"
    assert (await server.ask(method, "/nothing", b"{}")).json["code"] == "not_found"


async def test_from_afar_only_with_a_key(server: Server) -> None:
    _, secret = await server.house.keys.create("test", ["read"])
    assert (await server.ask("GET", "/metrics", client="192.168.1.9")).status == 401
    assert (await server.ask("GET", "/metrics", client="192.168.1.9", x_api_key=secret)).status == 200
    assert (await server.ask("GET", "/health", client="192.168.1.9")).status == 200


async def test_errors_are_counted_by_route_and_code(server: Server) -> None:
    await server.ask("POST", "/v1/completions", b"{")
    await server.ask("GET", "/docs", host="evil.example")
    counted = server.metrics.text().decode()
    assert 'allod_errors_total{route="/v1/completions",type="invalid_request"} 1.0' in counted
    assert 'allod_errors_total{route="other",type="forbidden"} 1.0' in counted


async def test_a_client_that_leaves_early_is_no_failure_of_the_server(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with asyncio.timeout(5):
        await server.ask("POST", "/v1/completions", [b'{"prompt":'], leaves=True)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_refusal_of_fastapis_own_kind_keeps_its_status(server: Server) -> None:
    answer = await server.ask("GET", "/api/good/conflict", x_api_key=server.key)
    assert (answer.status, answer.json["code"]) == (409, "conflict")  # a FrameworkRefusal


async def test_a_broken_body_is_named_as_such_elsewhere_too(server: Server) -> None:
    broken = await server.ask(
        "POST", "/api/keys", b"{", content_type="application/json", x_api_key=server.key
    )
    assert (broken.status, broken.json["param"]) == (400, None)
    other = await server.ask(
        "POST", "/api/keys", b'{"name":"x"}', content_type="text/plain", x_api_key=server.key
    )
    assert other.status == 415


async def test_the_limit_of_bodies_holds_everywhere(server: Server) -> None:
    large = b'{"name": "x", "more": "' + b"x" * (1 << 20) + b'"}'
    answer = await server.ask(
        "POST", "/api/keys", large, content_type="application/json", x_api_key=server.key
    )
    assert answer.status == 413


async def test_a_body_that_does_not_arrive_is_no_mistake_of_ours(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "_BODY_TAKES_S", 0.01)
    answer = Answer()

    async def silent() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    await server.ask("GET", "/health")
    await server.gateway(scope("POST", "/v1/completions", {}), silent, answer.take)
    assert (answer.status, answer.json["error"]["code"]) == (408, "body_too_slow")


async def test_a_stream_counts_the_tokens_of_all_prompts() -> None:
    class Fixed:
        """The answer to one prompt."""

        request = CompletionRequest(model="m", prompt="x")

        def __init__(self, usage: Usage) -> None:
            self.usage = usage

        async def events(self) -> AsyncGenerator[ChatEvent, None]:
            yield self.usage

    answers: list[Any] = [Fixed(Usage(1, 2, 0)), Fixed(Usage(5, 3, 1))]
    encoder = openai_completions.Encoder("m", openai_completions.Shape(True, True, None), 0)
    *_, last = [frame async for frame in v1._completion_frames(answers, encoder)]
    usage = json.loads(last.removeprefix(b"data: "))["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (6, 5)
