"""Threads as they are exported: any that Hypothesis makes up, and one that has all there is."""

from __future__ import annotations

from hypothesis import strategies as st

from allod.extensions.conversational.exported import ExportedMessage, ExportedThread
from allod.extensions.conversational.parts import (
    Citation,
    File,
    Image,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
)

WORDS = st.text(max_size=20)
_TIMES = st.floats(-6e10, 2e11)
_COUNTS = st.integers(0, 2**40)
_BLOBS = st.sampled_from(["b1", "b2", "b_3-x"])
_KINDS = st.sampled_from(["image/png", "image/svg+xml", "application/pdf"])
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)
_FIELDS = st.dictionaries(WORDS, _JSON, max_size=3)
PARTS: st.SearchStrategy[Part] = st.one_of(
    st.builds(Text, text=WORDS),
    st.builds(Reasoning, text=WORDS),
    st.builds(Image, blob=_BLOBS, media_type=_KINDS, name=WORDS, bytes=_COUNTS),
    st.builds(File, blob=_BLOBS, media_type=_KINDS, name=WORDS, bytes=_COUNTS),
    st.builds(ToolCall, id=WORDS, name=WORDS, arguments=WORDS),
    st.builds(ToolResult, id=WORDS, name=WORDS, text=WORDS, is_error=st.booleans()),
    st.builds(
        Citation,
        source=WORDS,
        title=WORDS,
        quote=WORDS,
        start=st.integers(0, 30),
        end=st.integers(0, 30),
        url=WORDS,
    ),
)


@st.composite
def exported_threads(draw: st.DrawFn) -> ExportedThread:
    """A thread of any tree, its messages in any order."""
    ids = draw(st.lists(WORDS, max_size=6, unique=True))
    parents = {id: draw(st.sampled_from([None, *ids[:place]])) for place, id in enumerate(ids)}
    messages = [
        draw(_messages(id, parents[id], [child for child in ids if parents[child] == id])) for id in ids
    ]
    return draw(
        st.builds(
            ExportedThread,
            title=WORDS,
            created_at=_TIMES,
            changed_at=_TIMES,
            project=st.none() | WORDS,
            tags=st.lists(WORDS, max_size=3).map(tuple),
            assistant=WORDS,
            instructions=WORDS,
            model=WORDS,
            parameters=_FIELDS,
            context=_FIELDS,
            draft=WORDS,
            summary=WORDS,
            summary_upto=st.sampled_from([None, *ids]),
            active=st.sampled_from([None, *ids]),
            messages=st.permutations(messages).map(tuple),
            attachments=st.dictionaries(_BLOBS, st.binary(max_size=20), max_size=3),
        )
    )


def _messages(id: str, parent: str | None, children: list[str]) -> st.SearchStrategy[ExportedMessage]:
    return st.builds(
        ExportedMessage,
        id=st.just(id),
        parent=st.just(parent),
        chosen=st.sampled_from([None, *children]),
        parts=st.lists(PARTS, max_size=4).map(tuple),
        error=st.none() | st.dictionaries(WORDS, WORDS, max_size=3),
        created_at=_TIMES,
        model=WORDS,
        parameters=_FIELDS,
        assistant=WORDS,
        usage=st.dictionaries(WORDS, _COUNTS, max_size=2),
        timings=st.dictionaries(WORDS, st.floats(allow_nan=False, allow_infinity=False), max_size=2),
    )


def thread_of(*messages: ExportedMessage, title: str = "A title", **fields: object) -> ExportedThread:
    """A thread of these messages, the last one shown."""
    given = {"created_at": 0.0, "changed_at": 0.0, "active": messages[-1].id if messages else None} | fields
    return ExportedThread.model_validate({"title": title, "messages": messages} | given)


def answer(*parts: Part, **fields: object) -> ExportedMessage:
    """An answer of these parts, the first message of its thread."""
    given = {"id": "a", "parent": None, "role": "assistant", "created_at": 60.0} | fields
    return ExportedMessage.model_validate({"parts": parts} | given)


PIXEL = Image(blob="b1", media_type="image/png", name="dot.png", bytes=3)
WHOLE = thread_of(
    ExportedMessage(
        id="q",
        parent=None,
        role="user",
        created_at=0,
        parts=(
            Text(text="What is *this*?\n  # no title"),
            PIXEL,
            File(blob="b2", media_type="text/csv", name="a_b.csv", bytes=9),
        ),
    ),
    answer(
        Reasoning(text="Let me </details> think."),
        Text(text="I look."),
        ToolCall(id="c1", name="look_up", arguments='{"q": "``` x"}'),
        ToolResult(id="c1", name="look_up", text="no ```` luck", is_error=True),
        Text(text="It is red, I think."),
        Citation(
            source="doc 1", title="On *dots*", quote="red", start=6, end=9, url="https://example.com/a_b"
        ),
        Citation(source="doc 2", title="", quote="", start=0, end=19),
        id="a",
        parent="q",
        created_at=86400,
        model="tiny_model",
        status="length",
    ),
    ExportedMessage(id="x", parent="q", role="assistant", created_at=1, parts=(Text(text="another branch"),)),
    title="Dots & <b>",
    active="a",
    attachments={"b1": b"\x89PN"},
)
"""A thread with a part of each kind."""
