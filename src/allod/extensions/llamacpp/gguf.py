"""What a GGUF file says of its model, read from its header alone, in milliseconds.

Source: the GGUF specification (ggml, docs/gguf.md); numbers of types as in ggml.h and llama.h. A header is four
counts, then key-value pairs, then the name, shape, type and offset of each tensor; the tensors' data follow.
Files come from anywhere, so nothing is believed: no length is allocated that the file does not hold, and a header
over 256 MiB is refused. Read with seek and read, not mmap: a file that shrinks meanwhile would end the process.
"""

from __future__ import annotations

import os
import stat
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

Value: TypeAlias = int | float | str | tuple[int, ...]

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_BIG_ENDIAN_VERSIONS: Final = (1 << 24, 2 << 24, 3 << 24)
_WINDOW_BYTES: Final = 1 << 20
_LONGEST_HEADER: Final = 256 << 20
LONGEST_KEY: Final = 65535
_LONGEST_TEXT: Final = 1 << 20
_MOST_PAIRS: Final = 1 << 16
_MOST_TENSORS: Final = 1 << 17
_MOST_BLOCKS: Final = 4096
_MOST_DIMENSIONS: Final = 4
_LARGEST_COUNT: Final = 1 << 31

U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_U32_U64: Final = struct.Struct("<IQ")
_STRING: Final = 8
_ARRAY: Final = 9
_SCALARS: Final[Mapping[int, struct.Struct]] = {
    number: struct.Struct("<" + letter)
    for number, letter in ((0, "B"), (1, "b"), (2, "H"), (3, "h"), (4, "I"), (5, "i"), (6, "f"), (7, "?"))
} | {10: struct.Struct("<Q"), 11: struct.Struct("<q"), 12: struct.Struct("<d")}


def _rows(table: str) -> list[list[str]]:
    return [row.split() for row in table.split(",")]


# Tensor types: number -> name, elements in a block, bytes of a block.
_TENSOR_TYPES: Final[Mapping[int, tuple[str, int, int]]] = {
    int(number): (name, int(elements), int(size))
    for number, name, elements, size in _rows(
        "0 F32 1 4, 1 F16 1 2, 2 Q4_0 32 18, 3 Q4_1 32 20, 6 Q5_0 32 22, 7 Q5_1 32 24, 8 Q8_0 32 34, 9 Q8_1 32 36,"
        "10 Q2_K 256 84, 11 Q3_K 256 110, 12 Q4_K 256 144, 13 Q5_K 256 176, 14 Q6_K 256 210, 15 Q8_K 256 292,"
        "16 IQ2_XXS 256 66, 17 IQ2_XS 256 74, 18 IQ3_XXS 256 98, 19 IQ1_S 256 50, 20 IQ4_NL 32 18, 21 IQ3_S 256 110,"
        "22 IQ2_S 256 82, 23 IQ4_XS 256 136, 24 I8 1 1, 25 I16 1 2, 26 I32 1 4, 27 I64 1 8, 28 F64 1 8,"
        "29 IQ1_M 256 56, 30 BF16 1 2, 34 TQ1_0 256 54, 35 TQ2_0 256 66, 39 MXFP4 32 17, 40 NVFP4 64 36,"
        "41 Q1_0 128 18, 42 Q2_0 64 18"
    )
}
# general.file_type -> what the file is quantized to (llama.h, llama_ftype). 1024 is added where it was guessed.
_FILE_TYPES: Final[Mapping[int, str]] = {
    int(number): name
    for number, name in _rows(
        "0 F32, 1 F16, 2 Q4_0, 3 Q4_1, 7 Q8_0, 8 Q5_0, 9 Q5_1, 10 Q2_K, 11 Q3_K_S, 12 Q3_K_M, 13 Q3_K_L, 14 Q4_K_S,"
        "15 Q4_K_M, 16 Q5_K_S, 17 Q5_K_M, 18 Q6_K, 19 IQ2_XXS, 20 IQ2_XS, 21 Q2_K_S, 22 IQ3_XS, 23 IQ3_XXS, 24 IQ1_S,"
        "25 IQ4_NL, 26 IQ3_S, 27 IQ3_M, 28 IQ2_S, 29 IQ2_M, 30 IQ4_XS, 31 IQ1_M, 32 BF16, 36 TQ1_0, 37 TQ2_0,"
        "38 MXFP4, 39 NVFP4, 40 Q1_0, 41 Q2_0"
    )
}
_GUESSED: Final = 1024
_CACHE_TYPES: Final[Mapping[str, tuple[int, int]]] = {
    name.lower(): (elements, size)
    for name, elements, size in _TENSOR_TYPES.values()
    if name in ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL")
}

# Texts and arrays that are kept; of all other arrays only the length is, of all other texts nothing.
_TEXTS: Final = frozenset(
    {
        "general.architecture",
        "general.name",
        "general.type",
        "tokenizer.chat_template",
        "tokenizer.chat_template.tool_use",
    }
)
_PER_LAYER: Final = (
    ".attention.head_count",
    ".attention.head_count_kv",
    ".attention.sliding_window_pattern",
    ".feed_forward_length",
)
_INFILL: Final = (
    ("fim_pre_token_id", "fim_suf_token_id", "fim_mid_token_id"),
    ("prefix_token_id", "suffix_token_id", "middle_token_id"),
)
_WITHOUT_CACHE: Final = frozenset(
    {"bert", "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3"}
)
_ENCODERS: Final = _WITHOUT_CACHE | {
    "eurobert",
    "gemma-embedding",
    "gemma-embedding2",
    "llama-embed",
    "t5encoder",
}
# Every how many layers one sees the whole context, where the file need not say so (llama.cpp, src/models).
_WINDOW_PERIODS: Final[Mapping[str, int]] = {
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "cohere2": 4,
}


class DamagedFile(ValueError):
    """The file is not a whole GGUF file that llama.cpp could read; says why, in words that finish a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a GGUF header says. Counts are 0 and texts empty where it says nothing.

    Lengths are in elements. `head_count` and `head_count_kv` are a tuple where layers differ.
    """

    architecture: str
    name: str
    kind: str
    """general.type: model, or adapter, mmproj, imatrix, which are none by themselves."""
    quantization: str
    context_tokens: int
    """What the model was trained for."""
    block_count: int
    embedding_length: int
    hidden_length: int
    """The widest feed-forward layer that a token passes, all its experts together."""
    head_count: int | tuple[int, ...]
    head_count_kv: int | tuple[int, ...]
    key_length: int
    value_length: int
    sliding_window: int
    windowed_layers: tuple[bool, ...]
    """Which layers see the last `sliding_window` tokens only; empty where that is none, or not known."""
    state_bytes: int
    """What each request takes in the layers of a recurrent or hybrid model, however long it is."""
    vocabulary_tokens: int
    chat_template: str
    tool_template: str
    has_infill_tokens: bool
    pooling_type: int | None
    """0 none, 1 mean, 2 first token, 3 last token, 4 rank (llama.h, llama_pooling_type)."""
    modalities: tuple[str, ...]
    """Of a projector: what it lets a model see or hear."""
    projection_length: int
    """Of a projector: the embedding length that it was made for, with few exceptions."""
    split_count: int
    parameters: int
    """Elements of this file's tensors."""

    @property
    def is_encoder(self) -> bool:
        """Whether it reads text as a whole and writes none."""
        return self.architecture in _ENCODERS

    @property
    def writes_text(self) -> bool:
        """Whether it writes; one that does not makes vectors or scores, and reads a text in one batch."""
        return not (self.is_encoder or self.pooling_type)

    @property
    def kv_heads(self) -> tuple[int, ...]:
        """Key-value heads of each layer; none in a layer that has a state instead."""
        if isinstance(self.head_count_kv, int):
            return (self.head_count_kv,) * self.block_count
        return self.head_count_kv


def read_header(path: Path) -> Header:
    """The header of a file, or of the one part of a split model.

    Raises DamagedFile where it is no whole GGUF file of version 2 or 3, and OSError where it cannot be read.
    """
    info = path.stat()
    if not stat.S_ISREG(info.st_mode):  # opening a pipe would wait forever
        raise DamagedFile("it is not a regular file")
    with path.open("rb") as file:
        source = Source(file, os.fstat(file.fileno()).st_size)
        pairs, tensors = counts(source)
        values = _read_values(source, pairs)
        elements_by_type = _check_tensors(source, tensors, _alignment(values))
    return _header(values, elements_by_type)


def kv_bytes_per_token(header: Header, type_k: str = "f16", type_v: str = "f16") -> int:
    """Bytes that a token takes in the key-value cache, in all layers together.

    Exact where every layer keeps every token. More than the truth where keys and values are compressed together
    (MLA) or layers share them, as llama.cpp differs there from version to version. Sliding windows: see
    window_bytes_per_token.
    """
    return sum(_bytes_by_layer(header, type_k, type_v))


def window_bytes_per_token(header: Header, type_k: str = "f16", type_v: str = "f16") -> int:
    """The part of kv_bytes_per_token that only the last `sliding_window` tokens of each request take."""
    layers = zip(_bytes_by_layer(header, type_k, type_v), header.windowed_layers, strict=False)
    return sum(size for size, is_windowed in layers if is_windowed)


def _bytes_by_layer(header: Header, type_k: str, type_v: str) -> list[int]:
    if header.architecture in _WITHOUT_CACHE:
        return []
    return [
        _row_bytes(heads * header.key_length, type_k) + _row_bytes(heads * header.value_length, type_v)
        for heads in header.kv_heads
    ]


def _row_bytes(elements: int, cache_type: str) -> int:
    block, size = _CACHE_TYPES[cache_type]
    return -(-elements // block) * size


class Source:
    """A file, read front to back through a window, never past its end."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._window = b""
        self._window_at = 0
        self.size = size
        self.position = 0

    def take(self, length: int) -> bytes:
        """The next bytes."""
        at = self._need(length)
        self.position += length
        return self._window[at : at + length]

    def skip(self, length: int) -> None:
        """Pass over bytes without reading them."""
        self._check(length)
        self.position += length

    def number(self, form: struct.Struct) -> Any:
        """The next number, of type int, float or bool as the form says."""
        at = self._need(form.size)
        self.position += form.size
        return form.unpack_from(self._window, at)[0]

    def text(self, longest: int) -> str:
        """The next string. What is not UTF-8 in it is replaced."""
        length = self.number(_U64)
        if length > longest:
            raise DamagedFile(f"its header claims a text of {length} bytes where none is that long")
        return self.take(length).decode("utf-8", "replace")

    def skip_strings(self, count: int) -> None:
        """Pass over strings: about 50 ns each, as no object is made but their lengths."""
        self._check(8 * count)
        length_at = _U64.unpack_from
        while count:
            start = at = self._need(8)
            window, passed = self._window, 0
            try:
                for passed in range(1, count + 1):  # noqa: B007 - used where the window ends
                    at += length_at(window, at)[0] + 8
            except (struct.error, OverflowError):  # the window ends here: go on in the next one
                passed -= 1
            count -= passed
            self.skip(at - start)

    def _need(self, length: int) -> int:
        """Have the next bytes in the window; where in it they begin."""
        self._check(length)
        at = self.position - self._window_at
        if not 0 <= at <= len(self._window) - length:
            self._file.seek(self.position)
            self._window = self._file.read(max(length, min(_WINDOW_BYTES, self.size - self.position)))
            self._window_at, at = self.position, 0
            if len(self._window) < length:
                raise DamagedFile("the file became shorter while it was read")
        return at

    def _check(self, length: int) -> None:
        if length > self.size - self.position:
            raise DamagedFile("the file is cut short: it ends within its header")
        if self.position + length > _LONGEST_HEADER:
            raise DamagedFile("the file says that its header is larger than 256 MiB, which none is")


def counts(source: Source) -> tuple[int, int]:
    """How many key-value pairs and tensors follow."""
    if source.size == 0:
        raise DamagedFile("the file is empty")
    if source.take(min(4, source.size)) != _MAGIC:
        raise DamagedFile("it is no GGUF file: it does not begin with the letters GGUF")
    version = source.number(U32)
    if version in _BIG_ENDIAN_VERSIONS:
        raise DamagedFile("it is a big-endian GGUF file, made for another kind of machine")
    if version not in _VERSIONS:
        raise DamagedFile(f"it is of GGUF version {version}, and only versions 2 and 3 can be read")
    tensors, pairs = source.number(_U64), source.number(_U64)
    if tensors > _MOST_TENSORS or pairs > _MOST_PAIRS:
        raise DamagedFile(f"the file claims {tensors} tensors and {pairs} values, more than any model has")
    return pairs, tensors


def _read_values(source: Source, pairs: int) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for _ in range(pairs):
        key = source.text(LONGEST_KEY)
        value = read_value(source, key, source.number(U32))
        if value is not None and len(key) < 256:
            values[key] = value
    return values


def read_value(source: Source, key: str, kind: int) -> Value | None:
    """A value, or how long a list is; None where it is not kept. It is read to its end in any case."""
    if kind in _SCALARS:
        scalar: int | float = source.number(_SCALARS[kind])
        return scalar
    if kind == _STRING:
        if key in _TEXTS:
            return source.text(_LONGEST_TEXT)
        source.skip(source.number(_U64))
        return None
    if kind == _ARRAY:
        return _read_array(source, key)
    raise DamagedFile(f"its value {key[:60]!r} is of the unknown type {kind}")


def _read_array(source: Source, key: str) -> Value:
    """The numbers where they are kept, else how many elements there are."""
    kind, length = _U32_U64.unpack(source.take(_U32_U64.size))
    count: int = length
    if kind == _STRING:
        source.skip_strings(count)
    elif kind not in _SCALARS:  # the specification allows arrays of arrays, llama.cpp does not
        raise DamagedFile(f"its value {key[:60]!r} is a list of the unknown type {kind}")
    elif count <= _MOST_BLOCKS and key.endswith(_PER_LAYER) and _SCALARS[kind].format[-1] not in "fd":
        return tuple(
            number for (number,) in _SCALARS[kind].iter_unpack(source.take(count * _SCALARS[kind].size))
        )
    else:
        source.skip(count * _SCALARS[kind].size)
    return count


def _alignment(values: Mapping[str, Value]) -> int:
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise DamagedFile("its alignment is no power of two")
    return alignment


def _check_tensors(source: Source, tensors: int, alignment: int) -> Counter[str]:
    """Elements by tensor type. Raises DamagedFile where the file ends before its last tensor does."""
    elements_by_type: Counter[str] = Counter()
    end = 0
    for _ in range(tensors):
        name = source.text(LONGEST_KEY)
        dimensions = source.number(U32)
        if dimensions > _MOST_DIMENSIONS:
            raise DamagedFile(f"its tensor {name[:60]!r} has {dimensions} dimensions")
        shape = [source.number(_U64) for _ in range(dimensions)]
        kind, offset = _U32_U64.unpack(source.take(_U32_U64.size))
        elements = 1
        for length in shape:
            elements *= length
        if elements >= 1 << 63 or offset % alignment:
            raise DamagedFile(f"its tensor {name[:60]!r} has an impossible size or place")
        # A type that is newer than this list counts as holding nothing: llama.cpp may know it.
        type_name, block, size = _TENSOR_TYPES.get(kind, (f"type {kind}", 1, 0))
        if shape and shape[0] % block:
            raise DamagedFile(
                f"its tensor {name[:60]!r} has rows of {shape[0]} elements, not of whole blocks"
            )
        elements_by_type[type_name] += elements
        end = max(end, offset + elements // block * size)
    data_at = -(-source.position // alignment) * alignment
    if end and data_at + end > source.size:
        raise DamagedFile(
            f"the file is cut short: {source.size} of {data_at + end} bytes are here (an unfinished download?)"
        )
    return elements_by_type


class _Metadata:
    """Typed access to the values. `{}` in a key stands for the architecture."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = values
        self.architecture = self.text("general.architecture")

    def text(self, key: str) -> str:
        value = self._values.get(key, "")
        return value if isinstance(value, str) else ""

    def has(self, *keys: str) -> bool:
        return all(key in self._values for key in keys)

    def count(self, key: str, largest: int = _LARGEST_COUNT) -> int:
        """A whole number that is not negative, 0 where there is none; the largest of a list."""
        value = self.counts(key, largest)
        return max(value, default=0) if isinstance(value, tuple) else value

    def counts(self, key: str, largest: int = _LARGEST_COUNT) -> int | tuple[int, ...]:
        """Such a number, or one for each layer."""
        key = key.format(self.architecture)
        value = self._values.get(key, 0)
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(number, int) and 0 <= number <= largest for number in numbers):
            raise DamagedFile(f"its value {key[:60]!r} is not a number that can be true")
        return value if isinstance(value, tuple) else int(value)


def _header(values: Mapping[str, Value], elements_by_type: Counter[str]) -> Header:
    metadata = _Metadata(values)
    blocks = metadata.count("{}.block_count", _MOST_BLOCKS)
    heads = metadata.counts("{}.attention.head_count")
    head_length = metadata.count("{}.embedding_length") // (_first(heads) or 1)
    tokens = metadata.count("tokenizer.ggml.tokens") or metadata.count("{}.vocab_size")
    has_pooling = metadata.has(f"{metadata.architecture}.pooling_type")
    has_kv_heads = metadata.has(f"{metadata.architecture}.attention.head_count_kv")
    return Header(
        architecture=metadata.architecture,
        name=metadata.text("general.name"),
        kind=metadata.text("general.type") or "model",
        quantization=_quantization(metadata, elements_by_type),
        context_tokens=metadata.count("{}.context_length"),
        block_count=blocks,
        embedding_length=metadata.count("{}.embedding_length"),
        hidden_length=_hidden_length(metadata),
        head_count=heads,
        head_count_kv=metadata.counts("{}.attention.head_count_kv") if has_kv_heads else heads,
        key_length=_head_length(metadata, "key", head_length if _first(heads) else 0),
        value_length=_head_length(metadata, "value", head_length if _first(heads) else 0),
        sliding_window=metadata.count("{}.attention.sliding_window"),
        windowed_layers=_windowed_layers(metadata, blocks),
        state_bytes=4 * blocks * _state_length(metadata),
        vocabulary_tokens=tokens,
        chat_template=metadata.text("tokenizer.chat_template"),
        tool_template=metadata.text("tokenizer.chat_template.tool_use"),
        has_infill_tokens=any(
            metadata.has(*(f"tokenizer.ggml.{name}" for name in names)) for names in _INFILL
        ),
        pooling_type=metadata.count("{}.pooling_type") if has_pooling else None,
        modalities=_modalities(metadata),
        projection_length=metadata.count("clip.vision.projection_dim")
        or metadata.count("clip.audio.projection_dim"),
        split_count=metadata.count("split.count") or 1,
        parameters=elements_by_type.total(),
    )


def _first(counts: int | tuple[int, ...]) -> int:
    return counts if isinstance(counts, int) else next((count for count in counts if count), 0)


def _head_length(metadata: _Metadata, which: str, default: int) -> int:
    said = metadata.count("{}.attention." + which + "_length") or default
    return max(said, metadata.count("{}.attention." + which + "_length_swa"))


def _hidden_length(metadata: _Metadata) -> int:
    dense = metadata.count("{}.feed_forward_length")
    experts = metadata.count("{}.expert_used_count")
    return max(dense, experts * (metadata.count("{}.expert_feed_forward_length") or dense))


def _windowed_layers(metadata: _Metadata, blocks: int) -> tuple[bool, ...]:
    if not metadata.count("{}.attention.sliding_window"):
        return ()
    pattern = metadata.counts("{}.attention.sliding_window_pattern")
    if isinstance(pattern, tuple):
        return tuple(bool(is_windowed) for is_windowed in pattern)
    period = pattern or _WINDOW_PERIODS.get(metadata.architecture, 1)
    return tuple(layer % period < period - 1 for layer in range(blocks))


def _state_length(metadata: _Metadata) -> int:
    """Elements of one layer's state: Mamba's, RWKV's or a short convolution's (llama.cpp, llama-hparams.cpp)."""
    embedding = metadata.count("{}.embedding_length")
    inner, state = metadata.count("{}.ssm.inner_size"), metadata.count("{}.ssm.state_size")
    convolved = inner + 2 * metadata.count("{}.ssm.group_count") * state
    mamba = max(0, metadata.count("{}.ssm.conv_kernel") - 1) * convolved + state * inner
    rwkv_head = metadata.count("{}.wkv.head_size")
    rwkv = embedding * (rwkv_head + 2) if rwkv_head else 0
    return mamba + rwkv + embedding * max(0, metadata.count("{}.shortconv.l_cache") - 1)


def _modalities(metadata: _Metadata) -> tuple[str, ...]:
    if metadata.architecture != "clip":
        return ()
    hears, sees = metadata.count("clip.has_audio_encoder"), metadata.count("clip.has_vision_encoder")
    return (("vision",) if sees or not hears else ()) + (("audio",) if hears else ())


def _quantization(metadata: _Metadata, elements_by_type: Counter[str]) -> str:
    """The file's type by name; where it names none, the tensor type that holds the most elements."""
    name = _FILE_TYPES.get(metadata.count("general.file_type") & ~_GUESSED)
    if name and metadata.has("general.file_type"):
        return name
    return elements_by_type.most_common(1)[0][0] if elements_by_type else ""
