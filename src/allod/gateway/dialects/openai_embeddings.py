"""OpenAI's embeddings: https://platform.openai.com/docs/api-reference/embeddings."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from allod.gateway.dialects.fields import Body
from allod.sdk.chat import EmbeddingRequest
from allod.sdk.duration import seconds
from allod.sdk.engine import Embedding
from allod.sdk.errors import BadRequest


class EmbeddingBody(Body):
    """The body of POST /v1/embeddings."""

    model: str = "default"
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None
    keep_alive: float | str | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """How the vectors are to be given. `dimensions` cuts and renormalises them."""

    base64: bool
    dimensions: int | None


def parse(body: dict[str, Any]) -> tuple[EmbeddingRequest, Shape]:
    """The request, and the form of its answer. Raises BadRequest, which names the field."""
    checked = EmbeddingBody.read(body)
    checked.refuse_others()
    given = checked.input
    inputs: list[str | list[int]]
    if isinstance(given, str):
        inputs = [given]
    elif given and isinstance(given[0], int):
        inputs = [[token for token in given if isinstance(token, int)]]
    else:
        inputs = [part for part in given if not isinstance(part, int)]
    if not inputs or not all(inputs):
        raise BadRequest(
            "input: is empty.", fix="Send at least one character or token in each.", param="input"
        )
    request = EmbeddingRequest(model=checked.model, inputs=inputs, keep_alive_s=seconds(checked.keep_alive))
    return request, Shape(checked.encoding_format == "base64", checked.dimensions)


def encode(model: str, shape: Shape, embeddings: Sequence[Embedding]) -> dict[str, Any]:
    """The whole answer."""
    tokens = sum(embedding.tokens for embedding in embeddings)
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(embedding.vector, shape)}
        for index, embedding in enumerate(embeddings)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": model, "data": data, "usage": usage}


def _encoded(vector: Sequence[float], shape: Shape) -> str | Sequence[float]:
    if shape.dimensions is not None:
        vector = _cut(vector, shape.dimensions)
    if shape.base64:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return vector


def _cut(vector: Sequence[float], dimensions: int) -> Sequence[float]:
    if dimensions > len(vector):
        raise BadRequest(
            f"dimensions: this model's vectors have {len(vector)}.",
            fix="Ask for no more.",
            param="dimensions",
        )
    cut = vector[:dimensions]
    norm = math.sqrt(sum(value * value for value in cut))
    return [value / norm for value in cut] if norm else cut
