"""The header of a GGUF file: what is said is read, what is wrong is named, whatever the bytes are."""

from __future__ import annotations

import os
import re
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from allod.extensions.llamacpp.catalog import Catalog, embedded_model
from allod.extensions.llamacpp.gguf import (
    DamagedFile,
    Header,
    kv_bytes_per_token,
    read_header,
    window_bytes_per_token,
)
from allod.extensions.llamacpp.planner import Wanted, plan_load
from allod.sdk.errors import LoadFailed
from tests.unit.llamacpp.gguf_files import BERT, LLAMA, PROJECTOR, Tensor, gguf, text, write

Read = Callable[..., Header]
_QUICKLY = settings(
    max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads the header of a file with these values."""
    return lambda *arguments, **changes: read_header(write(tmp_path / "m.gguf", gguf(*arguments, **changes)))


def damage(path: Path) -> str:
    with pytest.raises(DamagedFile) as caught:
        read_header(path)
    return str(caught.value)


# what is said


def test_the_embedded_model_says_what_it_is() -> None:
    path = embedded_model()
    assert path is not None
    header = read_header(path)
    assert (header.architecture, header.quantization) == ("llama", "Q4_1")
    assert (header.context_tokens, header.vocabulary_tokens) == (8192, 49152)
    assert (header.block_count, header.embedding_length, header.hidden_length) == (30, 576, 1536)
    assert (header.head_count, header.head_count_kv, header.key_length) == (9, 3, 64)
    assert header.parameters == pytest.approx(135e6, rel=0.3)
    assert "<|im_start|>" in header.chat_template
    assert header.writes_text and not header.is_encoder
    assert kv_bytes_per_token(header) == 2 * 30 * 3 * 64 * 2  # keys and values, layers, heads, length, f16


def test_a_header_is_read_field_by_field(read: Read) -> None:
    header = read()
    assert (header.architecture, header.name, header.kind) == ("llama", "A small one", "model")
    assert (header.quantization, header.context_tokens, header.vocabulary_tokens) == ("Q4_1", 4096, 4)
    assert (header.head_count, header.head_count_kv, header.key_length, header.value_length) == (4, 2, 16, 16)
    assert (header.hidden_length, header.split_count, header.parameters) == (256, 1, 32)
    assert header.chat_template == "{{ messages }}"
    assert header.pooling_type is None


@pytest.mark.parametrize("version", [2, 3])
def test_both_versions_in_use_are_read(read: Read, version: int) -> None:
    assert read(version=version).architecture == "llama"


def test_a_file_that_says_little_is_read_all_the_same(read: Read) -> None:
    header = read({"general.architecture": "llama"}, ())
    assert (header.context_tokens, header.name, header.quantization, header.parameters) == (0, "", "", 0)


def test_text_that_is_no_utf8_is_read_with_marks_in_its_place(read: Read) -> None:
    broken = struct.pack("<IQ", 8, 3) + b"a\xffb"
    assert read(general__name=broken).name == "a\ufffdb"


def test_layers_may_differ(read: Read) -> None:
    header = read(llama__attention__head_count_kv=[2, 1])
    assert header.kv_heads == (2, 1)
    assert kv_bytes_per_token(header) == 3 * 2 * 16 * 2


def test_the_quantization_is_that_of_most_elements_where_the_file_names_none(read: Read) -> None:
    tensors = [Tensor("a", (64,), 8), Tensor("b", (32,), 0)]
    assert read(LLAMA, tensors, data_bytes=512, general__file_type=None).quantization == "Q8_0"
    assert read(LLAMA, tensors, data_bytes=512, general__file_type=1024 + 7).quantization == "Q8_0"


def test_a_tensor_type_that_is_too_new_is_no_damage(read: Read) -> None:
    assert read(LLAMA, [Tensor(kind=99)], general__file_type=None).quantization == "type 99"


def test_experts_count_together(read: Read) -> None:
    assert read(llama__expert_used_count=4, llama__expert_feed_forward_length=100).hidden_length == 400


def test_windowed_layers_follow_the_pattern_of_their_architecture(read: Read) -> None:
    gemma = {name.replace("llama", "gemma3"): each for name, each in LLAMA.items()}
    gemma |= {"general.architecture": "gemma3", "gemma3.attention.sliding_window": 512}
    header = read(gemma, gemma3__block_count=12)
    assert header.windowed_layers == (True, True, True, True, True, False) * 2
    assert window_bytes_per_token(header) == kv_bytes_per_token(header) * 10 // 12


def test_cache_types_change_the_bytes_of_a_token(read: Read) -> None:
    header = read()
    assert kv_bytes_per_token(header, "f32", "f32") == 2 * kv_bytes_per_token(header)
    assert kv_bytes_per_token(header, "q8_0", "f16") == 2 * (34 + 64)


def test_an_encoder_writes_no_text_and_keeps_no_cache(read: Read) -> None:
    header = read(BERT)
    assert (header.is_encoder, header.writes_text, header.pooling_type) == (True, False, 1)
    assert kv_bytes_per_token(header) == 0


@pytest.mark.parametrize(
    ("changes", "modalities"),
    [
        ({}, ("vision",)),
        ({"clip__has_vision_encoder": False, "clip__has_audio_encoder": True}, ("audio",)),
        ({"clip__has_audio_encoder": True}, ("vision", "audio")),
    ],
)
def test_a_projector_says_what_it_adds(
    read: Read, changes: dict[str, Any], modalities: tuple[str, ...]
) -> None:
    header = read(PROJECTOR, **changes)
    assert (header.modalities, header.projection_length, header.kind) == (modalities, 64, "mmproj")


@pytest.mark.parametrize("words", [("fim_pre", "fim_suf", "fim_mid"), ("prefix", "suffix", "middle")])
def test_infill_needs_all_three_tokens(read: Read, words: tuple[str, ...]) -> None:
    named = {f"tokenizer__ggml__{word}_token_id": 1 for word in words}
    assert read(**named).has_infill_tokens
    named.popitem()
    assert not read(**named).has_infill_tokens


# what is wrong


def _header(tensors: int = 0, pairs: int = 0, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs) + rest


def _pair(kind: int, rest: bytes, key: str = "k") -> bytes:
    return _header(0, 1, text(key) + struct.pack("<I", kind) + rest)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"GG", "not begin with the letters GGUF"),
        (b"<!DOCTYPE html>", "not begin with the letters GGUF"),
        (b"GGUF", "cut short"),
        (b"GGUF" + struct.pack(">I", 3), "big-endian"),
        (b"GGUF" + struct.pack("<I", 1), "version 1"),
        (b"GGUF" + struct.pack("<I", 4), "version 4"),
        (_header(tensors=1 << 40), "more than any model has"),
        (_header(pairs=(1 << 64) - 1), "more than any model has"),
        (_header(pairs=1), "cut short"),
        (_header(0, 1, struct.pack("<Q", 1 << 62)), "claims a text of"),
        (_pair(13, b"x" * 99), "of the unknown type 13"),
        (_pair(8, struct.pack("<Q", (1 << 64) - 1)), "cut short"),
        (_pair(8, struct.pack("<Q", (1 << 64) - 1), "general.name"), "claims a text of"),
        (_pair(9, struct.pack("<IQ", 8, 1 << 60) + bytes(64)), "cut short"),
        (_pair(9, struct.pack("<IQ", 8, 2) + struct.pack("<Q", (1 << 64) - 1) + bytes(64)), "cut short"),
        (_pair(9, struct.pack("<IQ", 4, 1 << 62)), "cut short"),
        (_pair(9, struct.pack("<IQ", 9, 1) + bytes(64)), "a list of the unknown type 9"),
        (gguf(general__alignment=33), "no power of two"),
        (gguf(general__alignment=0), "no power of two"),
        (gguf(LLAMA, [Tensor(shape=(1,) * 5)]), "5 dimensions"),
        (gguf(LLAMA, [Tensor(shape=(1 << 40, 1 << 40))]), "impossible size"),
        (gguf(LLAMA, [Tensor(offset=1)]), "impossible size or place"),
        (gguf(LLAMA, [Tensor(shape=(33,), kind=3)]), "not of whole blocks"),
        (gguf(data_bytes=127), "unfinished download"),
        (gguf(llama__block_count=1 << 20), "not a number that can be true"),
        (gguf(llama__context_length=2.5), "not a number that can be true"),
        (gguf(llama__attention__head_count_kv=[2, 0xFFFF_FFFF]), "not a number that can be true"),
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    assert words in damage(write(tmp_path / "m.gguf", content))


def test_an_unfinished_download_says_how_much_is_here(tmp_path: Path) -> None:
    content = gguf(data_bytes=100)
    said = damage(write(tmp_path / "m.gguf", content))
    assert f"{len(content)} of {len(content) + 28} bytes" in said


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    assert damage(tmp_path / "pipe.gguf") == "it is not a regular file"
    assert damage(tmp_path) == "it is not a regular file"


def test_a_header_without_end_is_refused_unread(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", _pair(8, struct.pack("<Q", 1 << 40)))
    os.truncate(path, 1 << 41)  # holes: it takes no space on disk
    assert "larger than 256 MiB" in damage(path)


# whatever the bytes are

_SOUND = gguf(
    llama__attention__sliding_window=8, llama__ssm__inner_size=4, llama__x=[1.5, 2.5], llama__y=True
)


def reads_or_says_why(path: Path, content: bytes) -> None:
    """A header and a plan, or words; and never more memory than a few times the file and the window."""
    write(path, content)
    catalog = Catalog([path.parent], path.parent / "models.json")
    tracemalloc.start()
    try:
        files = catalog.scan()  # none where it says that it is no model: an adapter, a projector
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20
    for file in files:
        assert file.card().problem == file.problem
        try:
            assert plan_load(file, Wanted(), 8 << 30).total_bytes > 0
        except LoadFailed as error:
            assert file.problem and file.problem in error.detail


@_QUICKLY
@given(st.data())
def test_any_bytes_changed_give_a_header_or_a_reason(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(_SOUND)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        changed = data.draw(st.one_of(st.binary(min_size=1, max_size=8), st.just(b"\xff" * 8)))
        content[at : at + len(changed)] = changed
    reads_or_says_why(tmp_path / "m.gguf", bytes(content))


@_QUICKLY
@given(st.binary(max_size=300))
@example(b"")
def test_any_bytes_at_all_give_a_header_or_a_reason(tmp_path: Path, rest: bytes) -> None:
    reads_or_says_why(tmp_path / "m.gguf", b"GGUF\x03\0\0\0" + rest)


def test_every_truncation_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf")
    for length in reversed(range(path.stat().st_size)):
        os.truncate(path, length)
        assert damage(path)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 3 << 20))
def test_every_truncation_of_the_embedded_model_is_named(tmp_path: Path, length: int) -> None:
    path = embedded_model()
    assert path is not None
    with path.open("rb") as file:
        said = damage(write(tmp_path / "m.gguf", file.read(length)))
    assert re.search(r"cut short|empty|not begin", said)
