"""Models that llama.cpp loads, of a few kilobytes: real tokenizers with small vocabularies, and weights of zero."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from tests.unit.llamacpp.gguf_files import Tensor, gguf

_WIDTH, _HIDDEN, _BLOCKS, _CONTEXT = 32, 64, 2, 128
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
_WORDS = ("hello", "world", "he", "ll", "wor", "ld", "th", "the", "an", "and", "你好", "世", "ing", "H", "Hi")
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJ0123456789.,!'"


def llama() -> bytes:
    """Architecture llama, a SentencePiece vocabulary with bytes to fall back on."""
    pieces = [
        ("<unk>", _UNKNOWN, 0.0),
        ("<s>", _CONTROL, 0.0),
        ("</s>", _CONTROL, 0.0),
        *((f"<0x{byte:02X}>", _BYTE, 0.0) for byte in range(256)),
        *((word, _NORMAL, -float(rank)) for rank, word in enumerate(_spaced(_WORDS))),
        *(
            (letter, _NORMAL, -100.0 - rank)
            for rank, letter in enumerate("▁" + _LETTERS)
            if letter not in _WORDS
        ),
    ]
    return _model(
        "llama",
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": [text for text, _, _ in pieces],
            "tokenizer.ggml.scores": [score for _, _, score in pieces],
            "tokenizer.ggml.token_type": _kinds([kind for _, kind, _ in pieces]),
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.unknown_token_id": 0,
            "tokenizer.ggml.add_bos_token": True,
        },
        len(pieces),
        _decoder(),
    )


def qwen2() -> bytes:
    """Architecture qwen2, byte pairs."""
    shown = {byte: chr(byte) for byte in (*range(33, 127), *range(161, 173), *range(174, 256))}
    shown |= {byte: chr(256 + n) for n, byte in enumerate(byte for byte in range(256) if byte not in shown)}
    merges = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "l d", "Ġwor ld", "Ġ t", "a n", "an d"]
    tokens = [*shown.values(), *(merge.replace(" ", "") for merge in merges), "<|im_start|>", "<|im_end|>"]
    controls = 2
    return _model(
        "qwen2",
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "qwen2",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.merges": merges,
            "tokenizer.ggml.token_type": _kinds([_NORMAL] * (len(tokens) - controls) + [_CONTROL] * controls),
            "tokenizer.ggml.eos_token_id": len(tokens) - 1,
            "tokenizer.ggml.add_bos_token": False,
        },
        len(tokens),
        [*_decoder(), *((f"blk.{{}}.attn_{name}.bias", (_WIDTH,)) for name in "qkv")],
    )


def bert() -> bytes:
    """Architecture bert, word pieces; it makes vectors and has no template of its own."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [*specials, *_spaced(_WORDS), *_LETTERS, *(f"▁{letter}" for letter in _LETTERS)]
    tokens = list(dict.fromkeys(tokens))
    normal = len(tokens) - len(specials)
    return _model(
        "bert",
        {
            "bert.attention.layer_norm_epsilon": 1e-12,
            "bert.attention.causal": False,
            "bert.pooling_type": 1,
            "tokenizer.chat_template": None,
            "tokenizer.ggml.model": "bert",
            "tokenizer.ggml.token_type_count": 2,
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": _kinds([_CONTROL] * len(specials) + [_NORMAL] * normal),
            "tokenizer.ggml.unknown_token_id": 1,
            "tokenizer.ggml.bos_token_id": 2,
            "tokenizer.ggml.seperator_token_id": 3,
            "tokenizer.ggml.padding_token_id": 0,
            "tokenizer.ggml.mask_token_id": 4,
        },
        len(tokens),
        _encoder(),
    )


def _spaced(words: Sequence[str]) -> list[str]:
    """Each word as it stands in the middle of another, and as one of its own."""
    return [form for word in words for form in (word, f"▁{word}")]


def _kinds(kinds: Sequence[int]) -> bytes:
    return struct.pack(f"<IIQ{len(kinds)}i", 9, 5, len(kinds), *kinds)


_Shapes = list[tuple[str, tuple[int, ...]]]


def _decoder() -> _Shapes:
    square = (_WIDTH, _WIDTH)
    return [
        ("output_norm.weight", (_WIDTH,)),
        ("blk.{}.attn_norm.weight", (_WIDTH,)),
        ("blk.{}.ffn_norm.weight", (_WIDTH,)),
        *((f"blk.{{}}.attn_{name}.weight", square) for name in ("q", "k", "v", "output")),
        ("blk.{}.ffn_gate.weight", (_WIDTH, _HIDDEN)),
        ("blk.{}.ffn_up.weight", (_WIDTH, _HIDDEN)),
        ("blk.{}.ffn_down.weight", (_HIDDEN, _WIDTH)),
    ]


def _encoder() -> _Shapes:
    square = (_WIDTH, _WIDTH)
    norms = [f"{name}.{kind}" for name in ("attn_output_norm", "layer_output_norm") for kind in _KINDS]
    return [
        ("position_embd.weight", (_WIDTH, _CONTEXT)),
        ("token_types.weight", (_WIDTH, 2)),
        ("token_embd_norm.weight", (_WIDTH,)),
        ("token_embd_norm.bias", (_WIDTH,)),
        *((f"blk.{{}}.{norm}", (_WIDTH,)) for norm in norms),
        *((f"blk.{{}}.attn_{name}.weight", square) for name in ("q", "k", "v", "output")),
        *((f"blk.{{}}.attn_{name}.bias", (_WIDTH,)) for name in ("q", "k", "v", "output")),
        ("blk.{}.ffn_up.weight", (_WIDTH, _HIDDEN)),
        ("blk.{}.ffn_up.bias", (_HIDDEN,)),
        ("blk.{}.ffn_down.weight", (_HIDDEN, _WIDTH)),
        ("blk.{}.ffn_down.bias", (_WIDTH,)),
    ]


_KINDS = ("weight", "bias")


def _model(architecture: str, values: Mapping[str, Any], tokens: int, shapes: _Shapes) -> bytes:
    facts = {
        "general.architecture": architecture,
        "general.name": f"Tiny {architecture}",
        f"{architecture}.context_length": _CONTEXT,
        f"{architecture}.block_count": _BLOCKS,
        f"{architecture}.embedding_length": _WIDTH,
        f"{architecture}.feed_forward_length": _HIDDEN,
        f"{architecture}.attention.head_count": 2,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.chat_template": _TEMPLATE,
        **values,
    }
    named: _Shapes = [("token_embd.weight", (_WIDTH, tokens))]
    for name, shape in shapes:
        blocks = range(_BLOCKS) if "{}" in name else range(1)
        named += [(name.format(block), shape) for block in blocks]
    tensors = []
    at = 0
    for name, shape in named:
        tensors.append(Tensor(name, shape, 0, at))
        size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        at += size + -size % 32
    return gguf(facts, tensors, data_bytes=at)
