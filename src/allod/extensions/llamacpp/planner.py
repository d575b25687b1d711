"""What loading a model will take, from its header alone. Pure: looks at its arguments only."""

from __future__ import annotations

import sys
from bisect import bisect_right
from dataclasses import dataclass

from allod.extensions.llamacpp.catalog import ModelFile
from allod.extensions.llamacpp.gguf import Header, kv_bytes_per_token, window_bytes_per_token
from allod.sdk.chat import Purpose
from allod.sdk.engine import CPU, LoadPlan, ModelId
from allod.sdk.errors import LoadFailed

_LONGEST_AUTOMATIC_CONTEXT = 8192
_POOL_SHARE = 20  # an automatic pool of more than one context takes at most a twentieth of free memory
_CELLS = 256  # llama.cpp rounds the cache up to whole multiples of this
_PROCESS_BYTES = 40 << 20  # measured: interpreter, libraries and buffers of a worker without a model
_VOCABULARY_ENTRY_BYTES = 512  # measured: llama.cpp's tables of one token, and of the merges that lead to it


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the settings ask for. Tokens may be 0: chosen here."""

    context_tokens: int = 0
    pool_tokens: int = 0
    slots: int = 4
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    batch_tokens: int = 512
    cache_ram_bytes: int = 0
    purpose: Purpose = "chat"
    most_shared_bytes: int = sys.maxsize
    """See `mapped_bytes`, of a worker of this model that is there already."""


def plan_load(file: ModelFile, wanted: Wanted, free_bytes: int) -> LoadPlan:
    """What the model will take in main memory, and how many tokens its requests may use.

    One request may use `context_tokens`: what is wanted, but never more than the model was trained for. All that
    run at once share a pool. An automatic pool gives each slot a whole context where that takes at most 5 % of
    `free_bytes`, else what 5 % hold, but never less than one context; that of a private worker is one context.
    Memory = weights (mapped) and projector + key-value pool + state of recurrent layers + prompt cache + buffers.
    Weights that are mapped are in memory once for all workers of the model.
    Whether it fits is for the scheduler to decide.

    Raises LoadFailed for a file that has a problem.
    """
    header = file.header
    if header is None or file.problem:
        raise LoadFailed(f"{file.id!r} cannot be loaded: {file.problem}.", fix="Replace the file.")
    reasons: list[str] = []
    context = _context(header, wanted, reasons)
    pool = _pool(header, wanted, context, free_bytes, reasons)
    size = (
        file.size_bytes
        + file.mmproj_bytes
        + cache_bytes(header, wanted, pool)
        + 2 * wanted.slots * header.state_bytes  # and as much again for the copies that llama.cpp keeps
        + wanted.cache_ram_bytes
        + compute_bytes(header, wanted, context, pool)
        + _PROCESS_BYTES
        + _VOCABULARY_ENTRY_BYTES * header.vocabulary_tokens
    )
    shared = min(file.size_bytes, wanted.most_shared_bytes)
    return LoadPlan(
        ModelId(file.id),
        {CPU: size},
        context,
        pool,
        wanted.slots,
        tuple(reasons),
        wanted.purpose,
        {CPU: shared},
    )


def mapped_bytes(file: ModelFile, wanted: Wanted, plan: LoadPlan, own_bytes: int) -> int:
    """Bytes of the weights that a worker uses as they are mapped; `own_bytes` is what it took for itself, just loaded.

    The rest it has copied: llama.cpp repacks weights of some types (Q4_0, Q4_K and others) for the processor.
    """
    foreseen = plan.total_bytes - file.size_bytes - wanted.cache_ram_bytes
    return max(0, file.size_bytes - max(0, own_bytes - foreseen))


def cache_bytes(header: Header, wanted: Wanted, pool_tokens: int) -> int:
    """Bytes of the key-value cache. Layers with a sliding window keep no more than the windows of all slots.

    Source: llama.cpp, llama-kv-cache-iswa.cpp.
    """
    all_layers = kv_bytes_per_token(header, wanted.cache_type_k, wanted.cache_type_v)
    windowed = window_bytes_per_token(header, wanted.cache_type_k, wanted.cache_type_v)
    pool = _whole_cells(pool_tokens)
    window = min(pool, _whole_cells(header.sliding_window * wanted.slots + wanted.batch_tokens))
    return (all_layers - windowed) * pool + windowed * window


def compute_bytes(header: Header, wanted: Wanted, context_tokens: int, pool_tokens: int) -> int:
    """Bytes that llama.cpp computes in, for one batch of tokens.

    For each token of the batch: activations of 5 embeddings and 3 hidden layers in f32, and a mask over the pool
    in f16; and the scores of all tokens of the vocabulary for each slot. Within 1 % of what llama.cpp reports for
    SmolLM2 with batches of 64 to 2048 and pools of 2048 to 131072 tokens; above it for encoders.
    """
    batch = (
        context_tokens if header.is_encoder else wanted.batch_tokens
    )  # an encoder reads a text in one batch
    activations = 4 * (5 * header.embedding_length + 3 * header.hidden_length)
    mask = 2 * _whole_cells(pool_tokens)
    return batch * (activations + mask) + 4 * wanted.slots * header.vocabulary_tokens


def _context(header: Header, wanted: Wanted, reasons: list[str]) -> int:
    trained = header.context_tokens or sys.maxsize
    asked = wanted.context_tokens or _LONGEST_AUTOMATIC_CONTEXT
    if wanted.context_tokens > trained:
        reasons.append(f"The context is {trained} tokens, not {asked}: the model was trained for no more.")
    return min(asked, trained)


def _pool(header: Header, wanted: Wanted, context: int, free_bytes: int, reasons: list[str]) -> int:
    if wanted.pool_tokens:
        if wanted.pool_tokens < context:
            reasons.append(
                f"The shared context is {context} tokens, not {wanted.pool_tokens}: one request may use all."
            )
        return max(context, wanted.pool_tokens)
    # a private worker is for the few words of one user: what more context would take, the shared one needs
    whole = context if wanted.purpose == "private" else wanted.slots * context
    budget = max(0, free_bytes) // _POOL_SHARE
    fitting = bisect_right(range(whole + 1), budget, key=lambda pool: cache_bytes(header, wanted, pool)) - 1
    pool = min(whole, max(context, fitting))
    if pool < whole:
        reasons.append(
            f"{wanted.slots} requests share {pool} tokens, not {whole}: those would take over a twentieth of the"
            " free memory."
        )
    return pool


def _whole_cells(tokens: int) -> int:
    return -(-tokens // _CELLS) * _CELLS
