"""Vectors, tokens, the model list."""

from __future__ import annotations

import base64
import math
import struct
from pathlib import Path
from typing import Any

import openai
import pytest

from allod.testing.server import RunningServer, running_server
from tests.conftest import MODEL
from tests.http_client import chat, get, post, user, workers

PATH = "/v1/embeddings"


def vectors(server: RunningServer, given: Any, **fields: Any) -> list[Any]:
    reply = post(server, PATH, {"model": "jan", "input": given, **fields})
    assert reply.status == 200, reply.body
    data = reply.json["data"]
    assert [entry["index"] for entry in data] == list(range(len(data)))
    return [entry["embedding"] for entry in data]


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def test_like_texts_are_near(server: RunningServer) -> None:
    cat, kitten, tax = vectors(server, ["A cat sleeps.", "A kitten is sleeping.", "Tax law, section 4 (b)"])
    assert len(cat) == 576
    assert math.hypot(*cat) == pytest.approx(1, abs=1e-3)
    assert cosine(cat, kitten) > cosine(cat, tax)


def test_the_openai_sdk_embeds_and_the_same_worker_chats(server: RunningServer) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    answer = client.embeddings.create(model="jan", input=["hello"])  # asks for base64 by itself
    assert len(answer.data[0].embedding) == 576
    assert answer.usage.prompt_tokens > 0
    assert chat(server).text


def test_all_forms_of_input_agree(server: RunningServer) -> None:
    ids = post(server, "/v1/tokenize", {"content": "hello world"}).json["tokens"]
    (text,) = vectors(server, "hello world")
    (by_ids,) = vectors(server, ids)
    (first, second) = vectors(server, [ids, ids])
    for other in (by_ids, first, second):
        assert other == pytest.approx(text, abs=2e-3)


def test_base64_is_the_same_numbers(server: RunningServer) -> None:
    (floats,) = vectors(server, "hello")
    (packed,) = vectors(server, "hello", encoding_format="base64")
    raw = base64.b64decode(packed)
    assert list(struct.unpack(f"<{len(raw) // 4}f", raw)) == pytest.approx(floats, abs=2e-3)


def test_dimensions_cut_and_renormalise(server: RunningServer) -> None:
    (whole,) = vectors(server, "hello")
    (cut,) = vectors(server, "hello", dimensions=64)
    norm = math.hypot(*whole[:64])
    assert cut == pytest.approx([value / norm for value in whole[:64]], abs=2e-3)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": {"a": 1}}, "input"),
        ({}, "input"),
        ({"input": "x", "dimensions": 5000}, "dimensions"),
        ({"input": "x", "dimensions": 0}, "dimensions"),
        ({"input": "x", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "x", "temperature": 1}, "temperature"),
        ({"input": "word " * 2000}, "input"),
    ],
)
def test_a_wrong_field_is_named(server: RunningServer, fields: dict[str, Any], param: str) -> None:
    reply = post(server, PATH, {"model": "jan", **fields})
    assert (reply.status, reply.error["param"]) == (400, param), reply.body


def test_a_chat_model_without_the_setting_refuses(tmp_path: Any) -> None:
    with running_server(tmp_path / "home") as plain:
        reply = post(plain, PATH, {"model": "jan", "input": "x"})
    assert reply.status == 400
    assert "embeddings" in reply.error["message"]
    assert "mean" in reply.error["message"]


def test_tokens_there_and_back(server: RunningServer) -> None:
    text = "Hé 你好 😀!"
    made = post(server, "/v1/tokenize", {"model": "jan", "content": text}).json
    assert made["count"] == len(made["tokens"])
    assert post(server, "/v1/detokenize", {"model": "jan", "tokens": made["tokens"]}).json["content"] == text
    pieces = post(server, "/v1/tokenize", {"content": text, "with_pieces": True}).json["tokens"]
    raw = b"".join(p["piece"].encode() if isinstance(p["piece"], str) else bytes(p["piece"]) for p in pieces)
    assert raw.decode() == text


def test_apply_template_is_what_the_model_sees(server: RunningServer) -> None:
    made = post(server, "/v1/apply-template", {"model": "jan", "messages": user("Hi there")}).json
    assert made["prompt"].endswith("<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n")
    counted = chat(server, "Hi there").json["usage"]["prompt_tokens"]
    assert made["tokens"] == counted
    assert post(server, "/v1/tokenize", {"content": made["prompt"]}).json["count"] == counted


def test_to_show_what_a_model_sees_nothing_is_loaded(server: RunningServer, tmp_path: Path) -> None:
    asked = (
        ("/v1/tokenize", {"content": "Hé 你好 😀!", "with_pieces": True, "add_special": True}),
        ("/v1/detokenize", {"tokens": [1, 2, 28120, 905]}),
        ("/v1/apply-template", {"messages": user("Hi there")}),
    )
    chat(server, max_tokens=1)
    with running_server(tmp_path / "home", settings="[server]\npreload = false\n") as late:
        for path, body in asked:
            reply = post(late, path, body)
            assert (reply.status, reply.body) == (200, post(server, path, body).body)
        assert workers(late) == []
        assert get(late, f"/v1/models/{MODEL}").json["allod"]["state"] == "stopped"


def test_models_are_listed_with_their_aliases(server: RunningServer) -> None:
    listed = {model["id"]: model for model in get(server, "/v1/models").json["data"]}
    assert set(listed) == {MODEL, "jan", "default"}
    own = listed[MODEL]["allod"]
    assert own["context_tokens"] == 8192
    assert own["quantization"] == "Q4_1"
    assert own["size_bytes"] > 90_000_000
    assert {"chat", "completion", "embedding"} <= set(own["capabilities"])
    assert listed["jan"]["allod"]["alias_of"] == listed["default"]["allod"]["alias_of"] == MODEL
    assert get(server, f"/v1/models/{MODEL}").json == listed[MODEL]
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    assert {model.id for model in client.models.list()} == set(listed)


def test_an_unknown_model_is_told_the_known_ones(server: RunningServer) -> None:
    for reply in (get(server, "/v1/models/nope"), chat(server, model="nope")):
        assert reply.status == 404
        assert reply.error["code"] == "model_not_found"
        assert MODEL in reply.error["message"]
