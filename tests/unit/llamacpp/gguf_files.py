"""Small GGUF files, made by the specification, so that every field and every fault can be tried."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ALIGNMENT = 32


class Tensor(NamedTuple):
    name: str = "w"
    shape: tuple[int, ...] = (32,)
    kind: int = 0  # F32
    offset: int = 0


LLAMA: Mapping[str, Any] = {
    "general.architecture": "llama",
    "general.name": "A small one",
    "general.file_type": 3,
    "llama.context_length": 4096,
    "llama.block_count": 2,
    "llama.embedding_length": 64,
    "llama.feed_forward_length": 256,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.tokens": ["a", "b", "c", "分析"],
    "tokenizer.chat_template": "{{ messages }}",
}
BERT: Mapping[str, Any] = {
    "general.architecture": "bert",
    "bert.context_length": 512,
    "bert.block_count": 2,
    "bert.embedding_length": 64,
    "bert.attention.head_count": 4,
    "bert.pooling_type": 1,
}
PROJECTOR: Mapping[str, Any] = {
    "general.architecture": "clip",
    "general.type": "mmproj",
    "clip.has_vision_encoder": True,
    "clip.vision.projection_dim": 64,
}


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(of: Any) -> bytes:
    """A value with its type before it: int as uint32, float as float32, bool, string, or a list of one of those."""
    if isinstance(of, bytes):  # written out by the test
        return of
    if isinstance(of, list):
        kind = struct.unpack("<I", value(of[0])[:4])[0]
        return struct.pack("<IIQ", 9, kind, len(of)) + b"".join(value(each)[4:] for each in of)
    if isinstance(of, bool):
        return struct.pack("<I?", 7, of)
    if isinstance(of, int):
        return struct.pack("<II", 4, of)
    if isinstance(of, float):
        return struct.pack("<If", 6, of)
    return struct.pack("<I", 8) + text(of)


def gguf(
    values: Mapping[str, Any] = LLAMA,
    tensors: Sequence[Tensor] = (Tensor(),),
    *,
    version: int = 3,
    data_bytes: int = 128,
    **changes: Any,
) -> bytes:
    """A file's bytes. `changes` go over `values`, with `__` for a dot; None leaves a value out."""
    given = {**values, **{name.replace("__", "."): change for name, change in changes.items()}}
    pairs = {name: each for name, each in given.items() if each is not None}
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs))
    head += b"".join(text(name) + value(each) for name, each in pairs.items())
    for tensor in tensors:
        head += text(tensor.name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        head += struct.pack("<IQ", tensor.kind, tensor.offset)
    return head + bytes(-len(head) % ALIGNMENT) + bytes(data_bytes)


def write(path: Path, content: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gguf() if content is None else content)
    return path
