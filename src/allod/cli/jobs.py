"""`allod jobs`: work that takes long, how far it is, and pausing, resuming and cancelling it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

import typer

from allod.cli.client import Client
from allod.cli.failures import Failure
from allod.cli.options import Json, Limit, Of, Url, hand_on, parse_pairs
from allod.cli.words import say

jobs = typer.Typer(rich_markup_mode=None, add_completion=False)
_Id: TypeAlias = Annotated[str, typer.Argument(metavar="ID", show_default=False, hidden=True)]
_ENDED = ("done", "failed", "cancelled")
_LOOK_S = 0.25


@jobs.callback(invoke_without_command=True)
def overview(context: typer.Context, json: Json = False, url: Url = None) -> None:
    """List the jobs, look at one, start, pause, resume, cancel or watch it."""
    hand_on(context, json=json, url=url)
    if context.invoked_subcommand is None:
        list_jobs(json=json, url=url)


@jobs.command("list", help=say("List the jobs of the last 30 days, newest first."))
def list_jobs(limit: Limit = 100, extension: Of = None, json: Json = False, url: Url = None) -> None:
    """List the jobs of the last 30 days, newest first."""
    from urllib.parse import urlencode

    from allod.cli.output import moment, note, show_json, show_table
    from allod.cli.server import connect

    query = urlencode({"limit": limit, **({"extension": extension} if extension else {})})
    with connect(url) as client:
        found = client.request("GET", f"/api/jobs?{query}")
    if json:
        show_json(found)
    elif not found["jobs"]:
        note(say("There is no job."))
    else:
        heads = [say("ID"), say("EXTENSION"), say("JOB"), say("STATE"), say("PROGRESS"), say("CREATED")]
        rows = [
            (
                job["id"],
                job["extension"],
                job["title"],
                job["state"],
                _progress(job),
                moment(job["created_at"]),
            )
            for job in found["jobs"]
        ]
        show_table(heads, rows)


@jobs.command("show", help=say("Say all that is known of one."))
def show(job: _Id, json: Json = False, url: Url = None) -> None:
    """Say all that is known of one."""
    from allod.cli.output import show_facts, show_json
    from allod.cli.server import connect

    with connect(url) as client:
        found = client.request("GET", _path(job))
    if json:
        show_json(found)
    else:
        show_facts(_facts(found))


def _facts(job: dict[str, Any]) -> list[tuple[str, str]]:
    from json import dumps

    from allod.cli.output import moment

    return [
        (say("id"), job["id"]),
        (say("job"), f"{job['title']} ({job['extension']} {job['kind']})"),
        (say("state"), job["state"]),
        (say("progress"), _progress(job)),
        (say("note"), job["note"]),
        (say("result"), "" if job["result"] is None else dumps(job["result"], ensure_ascii=False)),
        (say("reason"), job["error"]),
        (say("next step"), job["fix"]),
        (say("created"), moment(job["created_at"])),
        (say("changed"), moment(job["changed_at"])),
    ]


@jobs.command("start", help=say("Put a job of an extension in line: EXTENSION KIND [NAME=VALUE]…"))
def start(
    extension: Annotated[str, typer.Argument(metavar="EXTENSION", show_default=False, hidden=True)],
    kind: Annotated[str, typer.Argument(metavar="KIND", show_default=False, hidden=True)],
    parameters: Annotated[
        list[str] | None, typer.Argument(metavar="NAME=VALUE", show_default=False, hidden=True)
    ] = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Put a job of an extension in line: EXTENSION KIND [NAME=VALUE]…"""
    from allod.cli.server import connect

    asked = {"extension": extension, "kind": kind, "parameters": parse_pairs(parameters or [])}
    with connect(url) as client:
        _tell(client, client.request("POST", "/api/jobs", asked), json)


@jobs.command("pause", help=say("Stop working on it until it is resumed."))
def pause(job: _Id, json: Json = False, url: Url = None) -> None:
    """Stop working on it until it is resumed."""
    _change(job, "pause", json, url)


@jobs.command("resume", help=say("Go on with a paused job, or try a failed or cancelled one again."))
def resume(job: _Id, json: Json = False, url: Url = None) -> None:
    """Go on with a paused job, or try a failed or cancelled one again."""
    _change(job, "resume", json, url)


@jobs.command("cancel", help=say("End it."))
def cancel(job: _Id, json: Json = False, url: Url = None) -> None:
    """End it."""
    _change(job, "cancel", json, url)


def _change(job: str, act: str, json: bool, url: str | None) -> None:
    from allod.cli.server import connect

    with connect(url) as client:
        _tell(client, client.request("POST", _path(job, f"/{act}"), timeout_s=60), json)


def _tell(client: Client, job: dict[str, Any], json: bool) -> None:
    from allod.cli.output import note, printable, show_json

    if json:
        show_json(job)
    else:
        print(printable(say("The job {job} is {state}.", job=job["id"], state=job["state"])))
    if client.is_temporary and job["state"] in ("queued", "running"):
        note(
            say(
                "It goes on when a server runs: `allod serve`, or `allod jobs watch {job}`, which waits for it.",
                job=job["id"],
            )
        )


@jobs.command("watch", help=say("Show how far it is until it has ended; fails where it does."))
def watch(job: _Id, json: Json = False, url: Url = None) -> None:
    """Show how far it is until it has ended; fails where it does."""
    from allod.cli.bar import bar
    from allod.cli.output import printable, show_json
    from allod.cli.server import connect

    is_for_person = sys.stdout.isatty() and sys.stderr.isatty() and not json

    def tell_line(status: dict[str, Any]) -> None:
        if json:
            show_json(status, one_line=True)
        else:
            print(printable(_line(status)), flush=True)

    with connect(url) as client:
        if not is_for_person:
            _check(_follow(client, job, tell_line))
            return
        with bar() as show_bar:
            ended = _follow(client, job, lambda status: show_bar(_line(status), _fraction(status)))
        _check(ended)
        tell_line(ended)


def _follow(client: Client, job: str, tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Tell where a job stands at each change that can be seen, until it has ended. Gives how it has."""
    told = ""
    while True:
        status: dict[str, Any] = client.request("GET", _path(job))
        if (line := _line(status)) != told:
            told = line
            tell(status)
        if status["state"] in _ENDED:
            return status
        time.sleep(_LOOK_S)


def _check(job: dict[str, Any]) -> None:
    """Raises Failure unless the job was done."""
    if job["state"] == "failed":
        raise Failure(say("The job failed: {reason}", reason=job["error"]), fix=job["fix"])
    if job["state"] == "cancelled":
        raise Failure(
            say("The job was cancelled."),
            fix=say("To try it again: `allod jobs resume {job}`.", job=job["id"]),
        )


def _line(job: dict[str, Any]) -> str:
    return " · ".join(part for part in (job["title"], job["state"], _progress(job), job["note"]) if part)


def _progress(job: dict[str, Any]) -> str:
    fraction = _fraction(job)
    if fraction is not None:
        return f"{fraction:.0%}"
    return f"{job['done']:g}" if job["done"] else ""


def _fraction(job: dict[str, Any]) -> float | None:
    return min(job["done"] / job["total"], 1) if job["total"] else None


def _path(job: str, act: str = "") -> str:
    from urllib.parse import quote

    return f"/api/jobs/{quote(job, safe='')}{act}"
