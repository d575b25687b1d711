"""`allod models`, `ps`, `load` and `unload`: what models there are and which are in memory."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from allod.cli.client import Client, model_path
from allod.cli.failures import Exit, Failure
from allod.cli.options import Json, Url, hand_on
from allod.cli.words import say

Name = Annotated[str, typer.Argument(metavar="MODEL", show_default=False, hidden=True)]

models = typer.Typer(rich_markup_mode=None, add_completion=False)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@models.callback(invoke_without_command=True)
def show(context: typer.Context, json: Json = False, url: Url = None) -> None:
    """List the models on this machine, add or remove one."""
    hand_on(context, json=json, url=url)
    if context.invoked_subcommand is None:
        list_models(json, url)


@models.command("list", help=say("List all models."))
def list_models(json: Json = False, url: Url = None) -> None:
    """List all models."""
    from allod.cli.output import note, show_json, show_table, size
    from allod.cli.server import connect

    with connect(url) as client:
        found = client.request("GET", "/api/llamacpp/models")
    if json:
        show_json(found)
        return
    if not found["models"]:
        note(say("No model is here yet. `allod models add PATH` adds a GGUF file."))
        return
    heads = ["", say("MODEL"), say("SIZE"), say("QUANTIZATION"), say("CONTEXT"), say("CAN"), say("STATE")]
    rows = [
        (
            "*" if model["id"] == found["default"] else "",
            model["id"],
            size(model["size_bytes"]),
            model["quantization"] or "",
            str(model["context_tokens"] or ""),
            ", ".join(model["capabilities"] or []),
            model["problem"] or model["state"],
        )
        for model in found["models"]
    ]
    show_table(heads, rows, right=(2, 4))


@models.command("add", help=say("Use a GGUF file where it lies."))
def add(
    path: Annotated[Path, typer.Argument(metavar="PATH", show_default=False, hidden=True)],
    json: Json = False,
    url: Url = None,
) -> None:
    """Use a GGUF file where it lies."""
    from allod.cli.output import show_json
    from allod.cli.server import connect

    with connect(url) as client:
        model = client.request("POST", "/api/llamacpp/models", {"path": str(path.expanduser().absolute())})
    if json:
        show_json(model)
    else:
        print(say("Added {model}. The file stays where it is.", model=model["id"]))


@models.command("remove", help=say("Forget a model that was added; its file stays."))
def remove(model: Name, json: Json = False, url: Url = None) -> None:
    """Forget a model that was added; its file stays."""
    from allod.cli.output import show_json
    from allod.cli.server import connect

    with connect(url) as client:
        client.request("DELETE", model_path(model))
    if json:
        show_json({"removed": model})
    else:
        print(say("Removed {model}. Its file stays where it is.", model=model))


def ps(json: Json = False, url: Url = None) -> None:
    """Show the models in memory."""
    from allod.cli.output import note, show_json, show_table
    from allod.cli.server import connect, find

    if not url and find() is None:  # starting a server to say that it has loaded nothing would help nobody
        workers: list[dict[str, Any]] = []
    else:
        with connect(url) as client:
            workers = client.request("GET", "/api/llamacpp/workers")["workers"]
    if json:
        show_json({"workers": workers})
        return
    shown = [worker for worker in workers if worker["state"] != "stopped"]
    if not shown:
        note(say("No model is in memory."))
        return
    heads = [
        say("MODEL"),
        say("PURPOSE"),
        say("STATE"),
        say("MEMORY"),
        say("CONTEXT"),
        say("RUNNING"),
        say("WAITING"),
        say("UNLOADS IN"),
    ]
    show_table(heads, [_worker_row(worker) for worker in shown], right=(3, 4, 5, 6))


def _worker_row(worker: dict[str, Any]) -> list[str]:
    from allod.cli.output import duration, size

    state = worker["state"]
    if state == "starting" and worker.get("progress") is not None:
        state += f" {worker['progress']:.0%}"
    elif worker.get("reason"):
        state += f": {worker['reason']}"
    left = worker.get("unloads_in_s")
    return [
        worker["model"],
        worker["purpose"],
        state,
        size(worker.get("memory_bytes")),
        str(worker.get("context_tokens") or ""),
        f"{worker.get('running') or 0}/{worker.get('slots') or 0}",
        str(worker.get("waiting") or 0),
        duration(left) or (say("never") if worker.get("pinned") else ""),
    ]


def load(
    model: Name = "default",
    keep_alive: Annotated[
        str | None,
        typer.Option(
            "--keep-alive", metavar="TIME", help=say("Unload after this idle time: 90s, 10m, 2h; -1: never.")
        ),
    ] = None,
    pin: Annotated[
        bool, typer.Option("--pin", help=say("Never unload it to make room for another."))
    ] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Load a model into the running server's memory."""
    from allod.cli.output import duration, show_json
    from allod.cli.server import connect

    options: dict[str, Any] = {} if keep_alive is None else {"keep_alive": _seconds(keep_alive)}
    if pin:
        options["pin"] = True
    with connect(url, start=False) as client:
        loaded, took_s = load_now(client, model, options)
    if json:
        show_json({**(loaded or {}), "load_s": round(took_s, 3)})
    else:
        name = (loaded or {}).get("model", model)
        print(say("{model} is in memory ({time}).", model=name, time=duration(took_s)))


def load_now(client: Client, model: str, options: dict[str, Any] | None = None) -> tuple[Any, float]:
    """Load a model, with a progress bar: what the server answered, and the seconds it took. Raises Failure."""
    from allod.cli.waiting import Waiting

    started = time.monotonic()
    with Waiting() as waiting:
        waiting.watch_loads(client, model)
        loaded = client.request("POST", model_path(model, "/load"), options or {}, timeout_s=None)
    return loaded, time.monotonic() - started


def unload(model: Name, json: Json = False, url: Url = None) -> None:
    """Unload a model once its answers have ended."""
    from allod.cli.output import show_json
    from allod.cli.server import connect

    with connect(url, start=False) as client:
        client.request("POST", model_path(model, "/unload"), timeout_s=None)
    if json:
        show_json({"unloaded": model})
    else:
        print(say("{model} is no longer in memory.", model=model))


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(-?\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    if not found:
        raise Failure(
            say("{time} is not a time.", time=repr(text)),
            fix=say("Write it like 90s, 10m or 2h."),
            exit_code=Exit.USAGE,
        )
    return float(found[1]) * _SECONDS[found[2]]
