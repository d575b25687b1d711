"""The parts of a message: what they may be, and what is read, searched and told of them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from allod.extensions.conversational.parts import (
    PARTS,
    Citation,
    File,
    Image,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    as_openai,
    read_parts,
    searchable,
    text_of,
)
from allod.sdk.errors import BadRequest

IMAGE = Image(blob="b1", media_type="image/png", name="a.png", bytes=3)
FILE = File(blob="b2", media_type="application/pdf", name="report.pdf", bytes=3)
CALL = ToolCall(id="c1", name="search", arguments='{"q": "x"}')
RESULT = ToolResult(id="c1", name="search", text="found it")
CITATION = Citation(source="doc1", title="A Book", quote="so it is", start=0, end=3)
ALL: tuple[Part, ...] = (
    Reasoning(text="hm"),
    Text(text="See "),
    CITATION,
    Text(text="here."),
    IMAGE,
    FILE,
    CALL,
    RESULT,
    Text(text="Done."),
)
ASKED = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": '{"q": "x"}'}}


def told(role: Any, *parts: Part, images: dict[str, str] | None = None) -> list[dict[str, Any]]:
    return as_openai(role, parts, images or {})


def test_parts_come_back_as_they_were_kept() -> None:
    assert PARTS.validate_json(PARTS.dump_json(ALL)) == ALL
    assert read_parts(PARTS.dump_python(ALL)) == ALL


def test_parts_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        IMAGE.name = "other"


def test_the_readable_text_is_what_was_said() -> None:
    assert text_of(ALL) == "See here.\n\nDone."
    assert text_of([Text(text=""), IMAGE]) == ""


def test_search_reads_all_but_reasoning() -> None:
    assert searchable(ALL) == "See here.\n\nDone.\nA Book\na.png\nreport.pdf\nfound it"
    assert searchable([Reasoning(text="hm")]) == ""


def test_a_question_is_told_as_text_with_its_files_named() -> None:
    assert told("user", FILE, Text(text="Read this.")) == [
        {"role": "user", "content": "[file: report.pdf]\n\nRead this."}
    ]


def test_images_are_seen_where_they_can_be_and_named_elsewhere() -> None:
    assert told("user", Text(text="What?"), IMAGE) == [{"role": "user", "content": "What?\n\n[image: a.png]"}]
    assert told("user", Text(text="What?"), IMAGE, FILE, images={"b1": "data:image/png;base64,AAAA"}) == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "text", "text": "[file: report.pdf]"},
            ],
        }
    ]


def test_an_answer_with_tools_is_told_round_by_round() -> None:
    second = ToolCall(id="c2", name="clock", arguments="")
    late = ToolResult(id="c2", name="clock", text="noon", is_error=True)
    thought = Reasoning(text="hm")
    assert told(
        "assistant", thought, Text(text="Let me see."), CALL, second, RESULT, late, Text(text="So.")
    ) == [
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [ASKED, {**ASKED, "id": "c2", "function": {"name": "clock", "arguments": ""}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "found it"},
        {"role": "tool", "tool_call_id": "c2", "content": "noon"},
        {"role": "assistant", "content": "So."},
    ]
    assert [message["role"] for message in told("assistant", CALL, RESULT, thought, second, late)] == [
        "assistant", "tool", "assistant", "tool",
    ]  # fmt: skip


def test_no_model_is_told_of_reasoning_and_citations() -> None:
    assert told("assistant", Reasoning(text="hm"), Text(text="a "), CITATION, Text(text="b")) == [
        {"role": "assistant", "content": "a b"}
    ]
    assert told("assistant", Reasoning(text="hm"), CITATION, Text(text="")) == []


def test_text_is_told_to_the_byte() -> None:
    text = "  \n a\u0301 \r\n\t🎉 "
    assert told("assistant", Text(text=text)) == [{"role": "assistant", "content": text}]


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ([{"type": "text", "text": "SECRET \ud800"}], "parts[0].text"),
        ([{"type": "text", "text": "a"}, CALL.model_dump() | {"id": "\udfff"}], "parts[1].id"),
        ([{"type": "text", "text": "a", "SECRET": 1}], "parts[0]"),
        ([{"type": "text", "text": "a", "other": 1}], "parts[0].other"),
        ([{"type": "text"}], "parts[0].text"),
        ([{"type": "SECRET"}], "parts[0]"),
        ([{"text": "SECRET"}], "parts[0]"),
        (["SECRET"], "parts[0]"),
        ("SECRET", "parts"),
        ([IMAGE.model_dump() | {"blob": "../SECRET"}], "parts[0].blob"),
        ([IMAGE.model_dump() | {"media_type": 'image/png;"SECRET'}], "parts[0].media_type"),
        ([FILE.model_dump() | {"bytes": -1}], "parts[0].bytes"),
        ([CITATION.model_dump() | {"start": -1}], "parts[0].start"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_and_not_quoted(given: Any, place: str) -> None:
    with pytest.raises(BadRequest) as raised:
        read_parts(given)
    assert raised.value.param == place
    assert raised.value.detail.startswith(f"{place}: ")
    assert "SECRET" not in raised.value.message


def test_half_a_character_is_told_as_what_it_is() -> None:
    with pytest.raises(BadRequest, match=r"^parts\[0\].text: it holds half a character"):
        read_parts([{"type": "text", "text": "\ud800"}])
