"""OpenAI's embeddings: forms of input, and vectors cut, renormalised and packed."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse

from allod.gateway.dialects import openai_embeddings
from allod.gateway.dialects.openai_embeddings import Shape
from allod.sdk.engine import Embedding
from allod.sdk.errors import BadRequest, UnsupportedParameter

FLOATS = Shape(False, None)


@pytest.mark.parametrize(
    ("given_", "wanted"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_forms_of_input(given_: Any, wanted: list[Any]) -> None:
    request, shape = openai_embeddings.parse({"input": given_, "model": "m", "keep_alive": "5m", "user": "u"})
    assert (request.inputs, request.model, request.keep_alive_s) == (wanted, "m", 300)
    assert shape == FLOATS


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("input", ""), ("input", []), ("input", ["a", ""]), ("input", [[]]), ("input", 5), ("input", None)),
        *(("input", ["a", 1]), ("encoding_format", "hex"), ("dimensions", 0), ("dimensions", "3")),
        *(("model", 5), ("user", 5), ("keep_alive", "x")),
    ],
)
def test_a_wrong_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        openai_embeddings.parse({"input": "x", field: value})
    assert caught.value.param == field


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        openai_embeddings.parse({"input": "x", "temperature": 1})
    assert caught.value.param == "temperature"


def test_the_answer_is_what_the_official_client_reads() -> None:
    made = openai_embeddings.encode("m", FLOATS, [Embedding((0.6, 0.8), 3), Embedding((1.0, 0.0), 2)])
    read = CreateEmbeddingResponse.model_validate(made)
    assert [(item.index, list(item.embedding)) for item in read.data] == [(0, [0.6, 0.8]), (1, [1.0, 0.0])]
    assert (read.usage.prompt_tokens, read.usage.total_tokens) == (5, 5)


def test_base64_is_little_endian_float32() -> None:
    made = openai_embeddings.encode("m", Shape(True, None), [Embedding((0.5, -2.0), 1)])
    assert struct.unpack("<2f", base64.b64decode(made["data"][0]["embedding"])) == (0.5, -2.0)


@given(st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=3, max_size=64), st.integers(1, 3))
def test_a_cut_vector_has_length_one_again(vector: list[float], dimensions: int) -> None:
    made = openai_embeddings.encode("m", Shape(False, dimensions), [Embedding(vector, 1)])
    cut = made["data"][0]["embedding"]
    assert len(cut) == dimensions
    if math.hypot(*vector[:dimensions]) > 1e-100:
        assert math.isclose(math.hypot(*cut), 1, rel_tol=1e-9)
        assert all(a * b >= 0 for a, b in zip(cut, vector, strict=False))


def test_a_vector_of_nothing_stays_nothing() -> None:
    made = openai_embeddings.encode("m", Shape(False, 2), [Embedding((0.0, 0.0, 1.0), 1)])
    assert list(made["data"][0]["embedding"]) == [0.0, 0.0]


def test_more_dimensions_than_there_are() -> None:
    with pytest.raises(BadRequest) as caught:
        openai_embeddings.encode("m", Shape(False, 3), [Embedding((0.6, 0.8), 1)])
    assert (caught.value.param, "2" in caught.value.detail) == ("dimensions", True)
