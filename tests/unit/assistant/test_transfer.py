"""An assistant goes out as one file and comes back the same; a file that is wrong is told so by its field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.extensions.assistant.content import LONGEST_NAME, Content, content_of, key_of
from allod.extensions.assistant.naming import free_name
from allod.extensions.assistant.parameters import AssistantParameters
from allod.extensions.assistant.transfer import exported, imported
from allod.sdk.errors import BadRequest
from tests.unit.assistant.house import Server
from tests.unit.assistant.test_assistants import WHOLE

CHARACTERS = st.characters(exclude_categories=["Cs"])
LINES = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/")
NAMES = st.text(LINES, min_size=1, max_size=LONGEST_NAME).filter(
    lambda name: name.strip().strip(".") and not key_of(name).startswith("assistant_")
)
PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0, 2) | st.integers(0, 2),
        "top_k": st.integers(0, 2**31 - 1),
        "min_p": st.floats(0, 1),
        "frequency_penalty": st.floats(-2, 2),
        "stop": st.text(CHARACTERS, min_size=1, max_size=9)
        | st.lists(st.text(CHARACTERS, min_size=1, max_size=9), max_size=4),
        "logit_bias": st.dictionaries(st.text(CHARACTERS, max_size=5), st.floats(-100, 100), max_size=4),
        "ignore_eos": st.booleans(),
        "seed": st.integers(0, 2**31 - 2),
        "json_schema": st.dictionaries(
            st.text(CHARACTERS, max_size=5),
            st.none() | st.booleans() | st.text(CHARACTERS, max_size=5),
            max_size=4,
        ),
        "mirostat": st.sampled_from([0, 1, 2]),
        "top_n_sigma": st.none() | st.floats(-3, 3),
    },
)
CONTENTS = st.fixed_dictionaries(
    {"name": NAMES},
    optional={
        "avatar": st.text(LINES, max_size=16),
        "description": st.text(CHARACTERS, max_size=50),
        "instructions": st.text(CHARACTERS, max_size=200),
        "model": st.text(LINES, max_size=20),
        "parameters": PARAMETERS,
        "tools": st.lists(st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True), max_size=4),
        "knowledge": st.lists(st.text(LINES, min_size=1, max_size=20), max_size=4),
        "starters": st.lists(st.text(CHARACTERS, min_size=1, max_size=20).filter(str.strip), max_size=4),
        "memory_only": st.booleans(),
    },
)


@given(CONTENTS)
def test_what_is_exported_is_imported_the_same(fields: dict[str, Any]) -> None:
    content = content_of(fields)
    file = json.dumps(exported(content), ensure_ascii=False)
    back = imported(json.loads(file))
    assert back == content
    assert json.dumps(exported(back), ensure_ascii=False) == file
    assert Content.model_validate_json(content.model_dump_json()) == content, "and so it is kept"


async def test_it_comes_back_under_a_name_of_its_own(server: Server) -> None:
    made = await server.make(**WHOLE)
    await server.told("PATCH", "/assistants/Ana", {"instructions": "now"})
    answer = await server.ask("GET", "/assistants/Ana/export")
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''Ana.assistant.json"
    file = answer.json
    assert file == {"allod": "assistant", "schema": 1, "assistant": WHOLE | {"instructions": "now"}}
    for name in ("Ana (2)", "Ana (3)"):
        back = await server.told("POST", "/import", file)
        assert back.items() >= (WHOLE | {"instructions": "now", "name": name, "version": 1}).items()
    await server.told("DELETE", f"/assistants/{made['id']}")
    assert (await server.told("POST", "/import", file))["name"] == "Ana"
    assert (await server.events())[-1][1:] == (1, "created")


async def test_a_small_file_by_hand_will_do(server: Server) -> None:
    file = {"allod": "assistant", "schema": 1, "assistant": {"name": "小明"}}
    assert (await server.told("POST", "/import", file))["name"] == "小明"
    named = (await server.ask("GET", "/assistants/小明/export")).headers["content-disposition"]
    assert named.endswith("%E5%B0%8F%E6%98%8E.assistant.json")


def wrong(**changes: Any) -> dict[str, Any]:
    return {"allod": "assistant", "schema": 1, "assistant": {"name": "Ana"}} | changes


@pytest.mark.parametrize(
    ("file", "param", "said"),
    [
        ({}, "allod", "not the file of an assistant"),
        (wrong(allod="thread"), "allod", "not the file of an assistant"),
        (wrong(schema="1"), "schema", "whole number"),
        (wrong(schema=True), "schema", "whole number"),
        (wrong(schema=0), "schema", "whole number"),
        (wrong(schema=2), "schema", "schema 2"),
        (wrong(more=1), "more", "no such field"),
        (wrong(assistant=[]), "assistant", "object"),
        (wrong(assistant={}), "assistant.name", "required"),
        (wrong(assistant={"name": "A", "colour": 1}), "assistant.colour", "not permitted"),
        (wrong(assistant={"name": "A", "starters": [1]}), "assistant.starters.0", "string"),
        (
            wrong(assistant={"name": "A", "parameters": {"temperature": "secret"}}),
            "assistant.parameters.temperature",
            "number",
        ),
        (
            wrong(assistant={"name": "A", "parameters": {"top-p": 1}}),
            "assistant.parameters",
            "the nearest is 'top_p'",
        ),
    ],
)
async def test_a_wrong_file_is_named_by_its_field(
    server: Server, file: dict[str, Any], param: str, said: str
) -> None:
    problem = await server.refused(400, "POST", "/import", file)
    assert (problem["code"], problem["param"]) == ("invalid_request", param)
    assert said in problem["detail"]
    assert "secret" not in str(problem)
    assert await server.names() == ["Allod"]


@pytest.mark.parametrize("file", [[], "text", 1, None, wrong(assistant={"name": "half \ud83d"})])
async def test_what_is_no_object_is_no_file(server: Server, file: Any) -> None:
    assert (await server.ask("POST", "/import", file)).status == 400


@given(NAMES, st.integers(0, 5))
def test_a_copy_finds_a_name_that_fits(name: str, copies: int) -> None:
    taken: set[str] = set()
    for _ in range(copies + 1):
        free = free_name(content_of({"name": name}).name, taken)
        assert key_of(free) not in taken
        assert content_of({"name": free}).name == free
        taken.add(key_of(free))


# parameters


@pytest.mark.parametrize(
    ("given", "param", "said"),
    [
        ({"temperature": -0.1}, "temperature", "greater than or equal to 0"),
        ({"temperature": "0.8"}, "temperature", "number"),
        ({"temperature": float("nan")}, "temperature", "finite"),
        ({"temperature": True}, "temperature", "number"),
        ({"top_n_sigma": float("inf")}, "top_n_sigma", "finite"),
        ({"top_k": 1.5}, "top_k", "integer"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"stop": [""]}, "stop.0", "at least 1"),
        ({"mirostat": 3}, "mirostat", "0, 1 or 2"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "less than or equal to 100"),
        ({"json_schema": {"a": float("nan")}}, "json_schema", "plain JSON"),
        ({"json_schema": {"a": "\ud800"}}, "json_schema", "plain JSON"),
        ({"json_schema": {"a": "x" * 100_001}}, "json_schema", "100 kB"),
        ({"max_completion_tokens": 5}, "", "the nearest is 'max_tokens'"),
        ({"zzz": 5}, "", "no parameter is called 'zzz'."),
        ({"messages": []}, "", "no parameter is called 'messages'"),
        ({"grammar": 'root ::= "a"', "json_schema": {}}, "", "only one of"),
    ],
)
def test_a_parameter_that_does_not_fit_is_named(given: dict[str, Any], param: str, said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        content_of({"name": "Ana", "parameters": given})
    assert caught.value.param == ".".join(["parameters", *([param] if param else [])])
    assert said in caught.value.detail


def test_one_stop_is_a_list_of_one() -> None:
    assert content_of({"name": "Ana", "parameters": {"stop": "END"}}).parameters.stop == ["END"]


def test_every_parameter_is_one_that_chats_know() -> None:
    from allod.extensions.llamacpp import parameters as llamacpp
    from allod.gateway.dialects.openai_chat import ChatBody

    known = llamacpp._NATIVE | llamacpp._NATIVE_CHAT | set(ChatBody.model_fields)
    assert set(AssistantParameters.model_fields) <= known
