"""`allod bench`: what a model does on this machine, measured through the API."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from allod.cli.client import Client, model_path
from allod.cli.failures import Exit, Failure
from allod.cli.options import Json, Url
from allod.cli.words import say

_FILLER = (
    "The house stands on a hill above the river, and in the evening its windows are lit one after another. "
)
_FIRST_LENGTH = 128
_LONG_RUN_S = 20  # a run this long is not disturbed enough to be worth repeating


def bench(
    model: Annotated[str, typer.Argument(metavar="MODEL", show_default=False, hidden=True)] = "default",
    repeat: Annotated[
        int,
        typer.Option("--repeat", min=1, metavar="N", help=say("Runs for each length; their median counts.")),
    ] = 3,
    longest: Annotated[
        int | None,
        typer.Option("--longest", min=1, metavar="N", help=say("Longest context to measure, in tokens.")),
    ] = None,
    tokens: Annotated[
        int, typer.Option("--tokens", min=2, metavar="N", help=say("Tokens to generate in each run."))
    ] = 64,
    json: Json = False,
    url: Url = None,
) -> None:
    """Measure a model: speed by context length, load time, memory."""
    from urllib.parse import quote

    from allod.cli.models import load_now
    from allod.cli.output import show_json
    from allod.cli.server import connect

    with connect(url) as client:
        found = client.request("GET", f"/v1/models/{quote(model, safe='')}")
        name = (found.get("allod") or {}).get("alias_of") or found["id"]
        was_pinned = _free(client, name)
        _, load_s = load_now(client, name, {"pin": True} if was_pinned else {})
        loaded_bytes = _worker(client, name).get("memory_bytes")
        context = int(_worker(client, name).get("context_tokens") or found["allod"]["context_tokens"])
        lengths = _lengths(min(context, longest or context), tokens)
        rows = _measure(client, name, lengths, tokens, repeat)
        facts = {
            "model": name,
            "load_s": round(load_s, 3),
            "loaded_bytes": loaded_bytes,
            "memory_bytes": _worker(client, name).get("memory_bytes"),
            "context_tokens": context,
            "generated_tokens": tokens,
            "repeat": repeat,
            "lengths": rows,
        }
    if json:
        show_json(facts)
    else:
        _show(facts)


def _free(client: Client, model: str) -> bool:
    """Unload the model, so that loading can be measured; whether it was pinned. Raises Failure if it is in use."""
    worker = _worker(client, model)
    if worker.get("running") or worker.get("waiting"):
        raise Failure(
            say("{model} is answering someone else just now.", model=model),
            fix=say("Measure when nothing else runs."),
            exit_code=Exit.BUSY,
        )
    client.request("POST", model_path(model, "/unload"), timeout_s=None)
    return bool(worker.get("pinned"))


def _worker(client: Client, model: str) -> dict[str, Any]:
    workers = client.request("GET", "/api/llamacpp/workers")["workers"]
    return next((worker for worker in workers if worker["model"] == model), {})


def _lengths(longest: int, generated: int) -> list[int]:
    """Prompt lengths that leave room for what is generated: 128, 512, 2048 … and the longest possible one."""
    most = longest - generated - 1
    lengths = []
    length = _FIRST_LENGTH
    while length < most:
        lengths.append(length)
        length *= 4
    return [*lengths, most] if most > 0 else []


def _measure(
    client: Client, model: str, lengths: list[int], generated: int, repeat: int
) -> list[dict[str, Any]]:
    from statistics import median

    from allod.cli.output import note

    filler = client.request("POST", "/v1/tokenize", {"model": model, "content": _FILLER}, timeout_s=None)[
        "tokens"
    ]
    rows = []
    for length in lengths:
        note(say("measuring {length} tokens …", length=length))
        prompt = (filler * (length // len(filler) + 1))[:length]
        runs: list[dict[str, Any]] = []
        while len(runs) < repeat and not (runs and _took_s(runs[-1]) > _LONG_RUN_S):
            runs.append(_run(client, model, prompt, generated))
        rows.append(
            {
                "prompt_tokens": length,
                "prompt_per_second": round(median(run["prompt_per_second"] for run in runs), 2),
                "predicted_per_second": round(median(run["predicted_per_second"] for run in runs), 2),
                "first_token_s": round(median(run["prompt_ms"] for run in runs) / 1000, 4),
                "runs": len(runs),
            }
        )
    return rows


def _run(client: Client, model: str, prompt: list[int], generated: int) -> dict[str, Any]:
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": generated,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": False,
    }
    answer = client.request("POST", "/v1/completions", body, timeout_s=None)
    timings = answer.get("timings")
    if not timings:
        raise Failure(say("This server's answers carry no timings, so it cannot be measured."))
    return dict(timings)


def _took_s(run: dict[str, Any]) -> float:
    return float(run["prompt_ms"] + run["predicted_ms"]) / 1000


def _show(facts: dict[str, Any]) -> None:
    from allod.cli.output import duration, show_table, size

    print(f"{facts['model']} · {say('context')} {facts['context_tokens']}")
    print(
        f"{say('load time')} {duration(facts['load_s'])} · "
        f"{say('memory after loading')} {size(facts['loaded_bytes']) or '-'} · "
        f"{say('after the longest prompt')} {size(facts['memory_bytes']) or '-'}\n"
    )
    heads = [say("PROMPT TOKENS"), say("PROMPT TOKENS/S"), say("ANSWER TOKENS/S"), say("FIRST TOKEN")]
    rows = [
        (
            str(row["prompt_tokens"]),
            f"{row['prompt_per_second']:.1f}",
            f"{row['predicted_per_second']:.1f}",
            duration(row["first_token_s"]),
        )
        for row in facts["lengths"]
    ]
    show_table(heads, rows, right=(0, 1, 2, 3))
