"""Whatever a client sends, a dialect reads it or refuses it: nothing else ever comes of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.gateway.dialects import openai_chat, openai_completions, openai_embeddings
from allod.gateway.dialects.fields import Body
from allod.gateway.v1 import ROUTES
from allod.sdk.errors import BadRequest

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
WORDS = st.sampled_from(["user", "tool", "text", "image_url", "function", "auto", "json_schema", "x", ""])
LIKELY = st.recursive(
    SCALARS | WORDS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from("role content type text url image_url name function arguments id schema".split()),
            inner,
            max_size=4,
        )
    ),
)


def bodies(kind: type[Body], needed: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    fields = st.dictionaries(st.sampled_from(sorted(kind.model_fields)), JSON | LIKELY, max_size=4)
    return fields.map(lambda more: {**needed, **more})


@pytest.mark.parametrize(
    ("dialect", "kind", "needed"),
    [
        (openai_chat, openai_chat.ChatBody, {"messages": [{"role": "user", "content": "x"}]}),
        (openai_completions, openai_completions.CompletionBody, {"prompt": "x"}),
        (openai_embeddings, openai_embeddings.EmbeddingBody, {"input": "x"}),
    ],
    ids=["chat", "completions", "embeddings"],
)
def test_any_body_is_read_or_refused(dialect: Any, kind: type[Body], needed: dict[str, Any]) -> None:
    @given(bodies(kind, needed))
    def check(body: dict[str, Any]) -> None:
        try:
            dialect.parse(body)
        except BadRequest as error:
            assert error.param is None or error.param.split(".")[0].split("[")[0] in kind.model_fields

    check()


@pytest.mark.parametrize("route", ROUTES)
def test_every_refused_field_is_named(route: str) -> None:
    _, kind = ROUTES[route]
    for name, field in kind.model_fields.items():
        if field.annotation is not Any:
            with pytest.raises(BadRequest) as caught:
                kind.read({name: object()})
            assert caught.value.param


@pytest.mark.parametrize("kind", ["list", "table"])
def test_what_is_nested_too_deeply_is_refused(kind: str) -> None:
    def nested(levels: int) -> Any:
        value: Any = 1
        for _ in range(levels):
            value = [value] if kind == "list" else {"a": value}
        return value

    body = {"messages": [{"role": "user", "content": "x"}]}
    openai_chat.parse({**body, "metadata": nested(100)})
    with pytest.raises(BadRequest, match="nested"):
        openai_chat.parse({**body, "metadata": nested(150)})
