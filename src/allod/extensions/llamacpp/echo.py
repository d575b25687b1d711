"""The log-probability of every token of a prompt, which llama.cpp's server does not offer by itself.

The prompt is forced through the model from its first token: a grammar of token literals leaves no choice, and every
step reports the raw log-probability (softmax of the logits, before any sampler) of the token that was forced. A token
that is no whole UTF-8 is refused by the grammar, and no step that generates one is reported; there any plain token is
generated instead, and the forced one is found in the distribution that it was drawn from.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import orjson

from allod.extensions.llamacpp.wire import error_of
from allod.sdk.errors import EngineFailed
from allod.sdk.processes import HttpClient

_STEP = 256  # tokens forced by one grammar: longer ones cost more to parse than they save
_ANY_PLAIN = "root ::= [!-~]+"
_LOOKS = (1000, 1 << 20)  # likeliest tokens to look among: most are found in the first, which costs a tenth


Step = dict[str, Any]
"""{id, token, bytes, logprob, top_logprobs}, as llama.cpp tells of each token that it generates."""


async def prompt_logprobs(
    http: HttpClient, model: str, ids: Sequence[int], pieces: Sequence[bytes], top: int
) -> list[Step]:
    """A step for each token of a prompt; the first has no logprob, since nothing precedes it."""
    if not ids:
        return []
    first = await _found(http, model, ids[:1], ids[0], 0)  # wherever it may come: only its bytes count
    steps: list[Step] = [{**first, "logprob": None}]
    while len(steps) < len(ids):
        start = len(steps)
        if run := _run_of_text(pieces, start):
            steps += await _forced(http, model, ids[:start], ids[start : start + run], top)
        if len(steps) < start + max(1, run):  # a fragment, or one that ends every text
            at = len(steps)
            steps.append(await _found(http, model, ids[:at], ids[at], top))
    return [_named(step, piece) for step, piece in zip(steps, pieces, strict=True)]


def _named(step: Step, piece: bytes) -> Step:
    """A step with the text of its token, which llama.cpp leaves out for marks such as the end of a message."""
    return step if step["bytes"] else {**step, "token": piece.decode(errors="replace"), "bytes": list(piece)}


def _run_of_text(pieces: Sequence[bytes], start: int) -> int:
    """How many tokens from `start` on are whole UTF-8."""
    end = start
    while end < len(pieces) and end - start < _STEP and _is_text(pieces[end]):
        end += 1
    return end - start


def _is_text(piece: bytes) -> bool:
    try:
        return bool(piece.decode()) and b"\xef\xbf\xbd" not in piece
    except UnicodeDecodeError:
        return False


async def _forced(
    http: HttpClient, model: str, before: Sequence[int], tokens: Sequence[int], top: int
) -> list[Step]:
    """Steps for whole tokens, which a grammar forces; fewer where it refuses one (the end of a message, say)."""
    grammar = "root ::= " + " ".join(f"<[{token}]>" for token in tokens) + " [^\\x00]*"
    asked = {"grammar": grammar, "n_predict": len(tokens), "n_probs": max(1, top)}
    steps = await _complete(http, model, before, asked)
    followed = itertools.takewhile(lambda pair: pair[0]["id"] == pair[1], zip(steps, tokens, strict=False))
    return [{**step, "top_logprobs": step["top_logprobs"][:top]} for step, _ in followed]


async def _found(http: HttpClient, model: str, before: Sequence[int], token: int, top: int) -> Step:
    """The step of a token that cannot be forced."""
    for count in _LOOKS:
        asked = {"grammar": _ANY_PLAIN, "n_predict": 1, "n_probs": max(count, top)}
        steps = await _complete(http, model, before, asked)
        likeliest = steps[0]["top_logprobs"] if steps else []
        for entry in likeliest:
            if entry["id"] == token:
                return {**entry, "top_logprobs": likeliest[:top]}
    raise EngineFailed(f"{model!r}: the engine did not tell of a token of the prompt.")


async def _complete(http: HttpClient, model: str, before: Sequence[int], body: dict[str, Any]) -> list[Step]:
    """Steps of a completion, as far as it came. Streamed, so that a caller who leaves ends it."""
    answer = await http.stream(
        "/completion", {"prompt": list(before), "temperature": 0, "stream": True, **body}
    )
    raw = await answer.read()
    if answer.status != 200:
        raise error_of(answer.status, raw, model)
    steps: list[Step] = []
    for line in raw.split(b"\n"):
        if line.startswith(b"data: {"):
            frame = orjson.loads(line[6:])
            if "error" in frame:  # the grammar has met a token that ends every text
                break
            steps += frame.get("completion_probabilities") or ()
    return steps
