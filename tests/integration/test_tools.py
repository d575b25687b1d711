"""Tools: forced or free, with a template that knows none (the embedded model's own) and with one that does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest

from allod.testing.server import RunningServer, running_server
from tests.conftest import MODEL
from tests.http_client import CHAT, chat, frames, get, post, user

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 16}, "unit": {"enum": ["c", "f"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
ADD = {
    "type": "object",
    "properties": {"a": {"type": "integer", "maximum": 999}, "b": {"type": "integer", "maximum": 999}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
SCHEMAS = {"get_weather": WEATHER, "add": ADD}
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "description": f"{name}.", "parameters": schema}}
    for name, schema in SCHEMAS.items()
]
NAMED = {"type": "function", "function": {"name": "add"}}

# ChatML with tools in the form of Hermes: what many models bring, and llama.cpp reads by itself.
TEMPLATE = """{%- if tools %}<|im_start|>system
You may call functions. Signatures, in <tools></tools>:
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools>
For a call, answer with <tool_call>
{"name": "...", "arguments": {...}}
</tool_call><|im_end|>
{% endif %}{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.tool_calls %}{% for call in message.tool_calls %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}{% else %}{{ message.content }}{% endif %}<|im_end|>
{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server whose model has a template that knows tools."""
    folder = tmp_path_factory.mktemp("knowing")
    template = folder / "tools.jinja"
    template.write_text(TEMPLATE)
    with running_server(folder / "home", settings=f'[llamacpp]\nchat_template = "{template}"\n') as running:
        yield running


@pytest.fixture(params=["told in the prompt", "known to the template"])
def either(request: pytest.FixtureRequest) -> RunningServer:
    name = "server" if request.param == "told in the prompt" else "knowing"
    running: RunningServer = request.getfixturevalue(name)
    return running


def calls_of(message: dict[str, Any]) -> list[tuple[str, Any]]:
    assert message["content"] in (None, "")
    return [
        (call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in message["tool_calls"]
    ]


def streamed_calls(made: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    calls: dict[int, dict[str, str]] = {}
    for frame in made:
        for choice in frame["choices"]:
            for delta in choice["delta"].get("tool_calls") or ():
                call = calls.setdefault(delta["index"], {"name": "", "arguments": ""})
                if delta.get("id"):
                    assert delta["type"] == "function"
                    call["name"] = delta["function"]["name"]
                call["arguments"] += delta["function"].get("arguments") or ""
    return [(call["name"], json.loads(call["arguments"])) for call in calls.values()]


def finish_reason(made: list[dict[str, Any]]) -> str:
    (reason,) = [c["finish_reason"] for frame in made for c in frame["choices"] if c["finish_reason"]]
    return str(reason)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_a_forced_call_is_valid(either: RunningServer, choice: Any, seed: int) -> None:
    asked = {
        **{"messages": user("What is the weather in Paris?"), "max_tokens": 150, "seed": seed},
        **{"tools": TOOLS, "tool_choice": choice, "temperature": 1.2, "parallel_tool_calls": False},
    }
    plain = post(either, CHAT, asked).json["choices"][0]
    made = frames(either, CHAT, asked)
    assert plain["finish_reason"] == finish_reason(made) == "tool_calls"
    for calls in (calls_of(plain["message"]), streamed_calls(made)):
        ((name, arguments),) = calls
        assert choice == "required" or name == "add"
        jsonschema.validate(arguments, SCHEMAS[name])


def test_the_openai_sdk_reads_a_streamed_call(server: RunningServer) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    with client.chat.completions.stream(
        model="jan",
        messages=[{"role": "user", "content": "Add 3 and 4."}],
        tools=TOOLS,
        tool_choice="required",
        max_tokens=100,
    ) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls is not None
    call = message.tool_calls[0]
    assert call.id.startswith("call_")
    jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])


@pytest.mark.parametrize("seed", range(6))
def test_auto_gives_text_or_a_valid_call(server: RunningServer, seed: int) -> None:
    reply = chat(server, "Add 3 and 4.", tools=TOOLS, max_tokens=60, seed=seed, temperature=1)
    choice = reply.json["choices"][0]
    if choice["message"].get("tool_calls") and choice["finish_reason"] == "tool_calls":
        ((name, arguments),) = calls_of(choice["message"])
        jsonschema.validate(arguments, SCHEMAS[name])
    else:
        assert choice["message"]["content"]
        assert choice["finish_reason"] in ("stop", "length")


def test_auto_can_call(server: RunningServer) -> None:
    """A nudge towards the first characters of a call: the grammar then leads to its end."""
    nudge = {'{"': 100}
    choice = chat(server, "Add 3 and 4.", tools=TOOLS, max_tokens=80, logit_bias=nudge).json["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    ((name, arguments),) = calls_of(choice["message"])
    jsonschema.validate(arguments, SCHEMAS[name])


def test_none_gives_text(either: RunningServer) -> None:
    choice = chat(either, "Add 3 and 4.", tools=TOOLS, tool_choice="none").json["choices"][0]
    assert choice["message"]["content"]
    assert "tool_calls" not in choice["message"]


def test_a_result_is_read(either: RunningServer) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 3, "b": 4}'}}
    messages = [
        *user("What is 3 + 4?"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "result-777"},
    ]
    seen = post(either, "/v1/apply-template", {"messages": messages, "tools": TOOLS}).json
    assert "result-777" in seen["prompt"]
    assert '"a": 3' in seen["prompt"]
    assert "get_weather" in seen["prompt"]
    reply = post(
        either, CHAT, {"messages": messages, "tools": TOOLS, "max_tokens": 10, "tool_choice": "none"}
    )
    assert reply.status == 200, reply.body


def test_many_choices_each_call(server: RunningServer) -> None:
    choices = chat(server, n=3, tools=TOOLS, tool_choice="required", max_tokens=120).json["choices"]
    for choice in choices:
        ((name, arguments),) = calls_of(choice["message"])
        jsonschema.validate(arguments, SCHEMAS[name])
    assert len({choice["message"]["tool_calls"][0]["id"] for choice in choices}) == 3


def test_the_model_list_says_who_knows_tools(server: RunningServer, knowing: RunningServer) -> None:
    assert "tools" not in get(server, f"/v1/models/{MODEL}").json["allod"]["capabilities"]
    assert "tools" in get(knowing, f"/v1/models/{MODEL}").json["allod"]["capabilities"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "zzz"}}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": "add"}, "tools"),
        ({"tools": TOOLS, "logprobs": True}, "logprobs"),
        ({"tools": TOOLS, "response_format": {"type": "json_object"}}, "response_format"),
        (
            {"tools": [{"type": "function", "function": {"name": "x", "parameters": {"type": "zzz"}}}]},
            "tools",
        ),
    ],
)
def test_what_cannot_be_is_refused(server: RunningServer, fields: dict[str, Any], param: str) -> None:
    reply = chat(server, **fields)
    assert reply.status == 400, reply.body
    assert reply.error["param"] == param


def test_a_tool_without_parameters(server: RunningServer) -> None:
    tool = {"type": "function", "function": {"name": "now"}}
    choice = chat(server, tools=[tool], tool_choice="required", max_tokens=40).json["choices"][0]
    assert calls_of(choice["message"]) == [("now", {})]


def test_parameters_with_definitions_are_obeyed(server: RunningServer) -> None:
    """As pydantic writes them: the parts of a schema beside it, pointed at."""
    size = {"enum": ["small", "large"]}
    schema = {
        "type": "object",
        "$defs": {"Size": size},
        "properties": {
            "size": {"$ref": "#/$defs/Size"},
            "sizes": {"type": "array", "maxItems": 2, "items": {"$ref": "#/$defs/Size"}},
        },
        "required": ["size", "sizes"],
    }
    tool = {"type": "function", "function": {"name": "order", "parameters": schema}}
    other = {
        "type": "function",
        "function": {"name": "cancel", "parameters": {**schema, "$defs": {"Size": {"const": "none"}}}},
    }
    for choice in ("order", "cancel"):
        named = {"type": "function", "function": {"name": choice}}
        message = chat(server, tools=[tool, other], tool_choice=named, max_tokens=120).json["choices"][0][
            "message"
        ]
        ((name, arguments),) = calls_of(message)
        assert name == choice
        assert arguments["size"] in (size["enum"] if choice == "order" else ["none"])
