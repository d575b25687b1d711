"""The log-probability of every token of a prompt, which llama.cpp's server does not offer by itself.

The prompt is forced through the model from its first token: a grammar of token literals leaves no choice, and every
step reports the raw log-probability (softmax of the logits, before any sampler) of the token that was forced. A token
that is no whole UTF-8 is refused by the grammar; there one step with a large bias forces it, and reports the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from allod.extensions.llamacpp.wire import error_of
from allod.sdk.errors import EngineFailed
from allod.sdk.processes import HttpClient

_STEP = 256  # tokens forced by one grammar: longer ones cost more to parse than they save
_BIAS = 1e4


Step = dict[str, Any]
"""{id, token, bytes, logprob, top_logprobs}, as llama.cpp tells of each token that it generates."""


async def prompt_logprobs(
    http: HttpClient, model: str, ids: Sequence[int], pieces: Sequence[bytes], top: int
) -> list[Step]:
    """A step for each token of a prompt; the first has no logprob, since nothing precedes it."""
    steps: list[Step] = []
    if ids:
        token = pieces[0].decode(errors="replace")
        steps.append(
            {"id": ids[0], "token": token, "bytes": list(pieces[0]), "logprob": None, "top_logprobs": []}
        )
    while len(steps) < len(ids):
        start = len(steps)
        run = _run_of_text(pieces, start)
        forced = ids[start : start + max(1, run)]
        body = _by_grammar(forced) if run else {"logit_bias": [[forced[0], _BIAS]]}
        made = await _complete(http, model, ids[:start], top, body | {"n_predict": len(forced)})
        if [step["id"] for step in made] != list(forced):
            raise EngineFailed(f"{model!r}: the engine did not follow the prompt's tokens.")
        steps += [{**step, "top_logprobs": step["top_logprobs"][:top]} for step in made]
    return steps


def _run_of_text(pieces: Sequence[bytes], start: int) -> int:
    """How many tokens from `start` on are whole UTF-8."""
    end = start
    while end < len(pieces) and end - start < _STEP and _is_text(pieces[end]):
        end += 1
    return end - start


def _is_text(piece: bytes) -> bool:
    try:
        return bool(piece.decode())
    except UnicodeDecodeError:
        return False


def _by_grammar(tokens: Sequence[int]) -> dict[str, Any]:
    return {"grammar": "root ::= " + " ".join(f"<[{token}]>" for token in tokens) + " [^\\x00]*"}


async def _complete(
    http: HttpClient, model: str, before: Sequence[int], top: int, body: dict[str, Any]
) -> list[dict[str, Any]]:
    """Steps of a completion. Streamed, so that a caller who leaves ends it."""
    asked = {
        "prompt": list(before),
        "n_probs": max(1, top),
        "temperature": 0,
        "stream": True,
        "ignore_eos": False,
    }
    answer = await http.stream("/completion", asked | body)
    raw = await answer.read()
    if answer.status != 200:
        raise error_of(answer.status, raw, model)
    steps: list[dict[str, Any]] = []
    for line in raw.split(b"\n"):
        if line.startswith(b"data: {"):
            frame = orjson.loads(line[6:])
            if "error" in frame:
                raise error_of(500, line[6:], model)
            steps += frame.get("completion_probabilities") or ()
    return steps
