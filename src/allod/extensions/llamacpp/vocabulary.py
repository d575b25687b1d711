"""A GGUF file of what a model counts by and nothing else: its tokenizer and chat templates, and one block of no weight.

llama.cpp serves nothing without a model, and to load one for the sake of its vocabulary would be to read gigabytes.
This file is loaded in a fraction of a second. The values that tokenizer and templates are made of stand in it byte by
byte as in the model's own; all else is the smallest "llama" that llama.cpp takes, with zeros for weights.
What differs: another architecture and another number of layers, by which llama.cpp decides two rarities (the word
<mask> of two BERTs; the template of one Mistral of 40 layers that brings none).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path

from allod.extensions.llamacpp.gguf import LONGEST_KEY, U32, DamagedFile, Source, counts, read_value
from allod.sdk.errors import LoadFailed

_NAMED = ("general.name",)  # llama.cpp knows one family of models by it
_TOKENIZER = "tokenizer."
_TOKENS = "tokenizer.ggml.tokens"
_SMALLEST = 8  # elements of an embedding, a head and a hidden layer
_ALIGNMENT = 32
_F32, _F16 = 0, 1
_MOST_KEPT = 4


def vocabulary_file(model: Path, folder: Path) -> Path:
    """Such a file for a model, in `folder`: there already, or made now. Some 4 MB for each 100,000 tokens.

    Its name is a hash of all that it holds. The few that were used last are kept. Raises LoadFailed.
    """
    try:
        head, data_bytes = _made_of(model)
        file = folder / f"{hashlib.sha256(head).hexdigest()[:32]}.gguf"
        if not file.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(file, head, data_bytes)
        os.utime(file)
        _tidy(folder)
    except DamagedFile as error:
        raise LoadFailed(f"{model.name} cannot be used: {error}.", fix="Replace the file.") from None
    except OSError as error:
        raise LoadFailed(f"The vocabulary of {model.name} could not be copied: {error.strerror}.") from error
    return file


def _made_of(model: Path) -> tuple[bytes, int]:
    """The head of the file, and how many bytes of zeros follow it."""
    values, tokens = _tokenizer_values(model)
    if not tokens:
        raise LoadFailed(
            f"{model.name} has no vocabulary of its own, so nothing can be counted.", fix="Load the model."
        )
    values += [
        _text("general.architecture") + U32.pack(8) + _text("llama"),
        *(
            _text(f"llama.{name}") + struct.pack("<II", 4, number)
            for name, number in (
                ("block_count", 1),
                ("context_length", 256),
                ("embedding_length", _SMALLEST),
                ("feed_forward_length", _SMALLEST),
                ("attention.head_count", 1),
            )
        ),
        _text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", 6, 1e-5),
    ]
    tensors, data_bytes = _tensors(tokens)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values)) + b"".join([*values, *tensors])
    return head + bytes(-len(head) % _ALIGNMENT), data_bytes


def _tokenizer_values(model: Path) -> tuple[list[bytes], int]:
    """The pairs that tokenizing and templates need, as they stand in the file, and how many tokens there are."""
    with model.open("rb") as file:
        source = Source(file, os.fstat(file.fileno()).st_size)
        tokens = 0
        places: list[tuple[int, int]] = []
        for _ in range(counts(source)[0]):
            start = source.position
            key = source.text(LONGEST_KEY)
            value = read_value(source, key, source.number(U32))
            if key.startswith(_TOKENIZER) or key in _NAMED:
                places.append((start, source.position))
            if key == _TOKENS and isinstance(value, int):
                tokens = value
        pairs = []
        for start, end in places:
            file.seek(start)
            pairs.append(file.read(end - start))
    return pairs, tokens


def _tensors(tokens: int) -> tuple[list[bytes], int]:
    """What the head says of each tensor, and the bytes of all."""
    one, square = (_SMALLEST,), (_SMALLEST, _SMALLEST)
    shapes: list[tuple[str, Sequence[int], int]] = [
        ("token_embd", (_SMALLEST, tokens), _F16),
        ("output_norm", one, _F32),
        *((f"blk.0.{name}_norm", one, _F32) for name in ("attn", "ffn")),
        *((f"blk.0.attn_{name}", square, _F32) for name in ("q", "k", "v", "output")),
        *((f"blk.0.ffn_{name}", square, _F32) for name in ("gate", "down", "up")),
    ]
    told: list[bytes] = []
    at = 0
    for name, shape, kind in shapes:
        told.append(_text(f"{name}.weight") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, at))
        size = (2 if kind == _F16 else 4) * shape[0] * (shape[1] if len(shape) > 1 else 1)
        at += size + -size % _ALIGNMENT
    return told, at


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _write(file: Path, head: bytes, zeros: int) -> None:
    """Whole or not at all. The zeros are a hole, which takes no room on most disks."""
    handle, name = tempfile.mkstemp(dir=file.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as part:
            part.write(head)
            part.truncate(len(head) + zeros)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink()
        raise


def _tidy(folder: Path) -> None:
    """Let go of all but the files used last, and of what an earlier server left half written."""
    newest_first = sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in newest_first[_MOST_KEPT:]:
        with contextlib.suppress(OSError):  # another turn of this took it
            file.unlink()
