"""`allod egress`: what may reach the world, and what has."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import typer

from allod.cli.options import Json, Limit, Of, Url, hand_on
from allod.cli.words import say

egress = typer.Typer(rich_markup_mode=None, add_completion=False)
_Extension: TypeAlias = Annotated[str, typer.Argument(metavar="EXTENSION", show_default=False, hidden=True)]
_Host: TypeAlias = Annotated[str, typer.Argument(metavar="HOST", show_default=False, hidden=True)]


@egress.callback(invoke_without_command=True)
def overview(context: typer.Context, json: Json = False, url: Url = None) -> None:
    """Say what may reach the world and what has; allow or deny a host, go offline."""
    hand_on(context, json=json, url=url)
    if context.invoked_subcommand is not None:
        return
    from allod.cli.output import note, show_json
    from allod.cli.server import connect

    with connect(url) as client:
        state = client.request("GET", "/api/egress")
    if json:
        show_json(state)
        return
    _tell_switch(state)
    if state["grants"]:
        _show_grants(state["grants"])
    else:
        note(say("Nothing may reach the world. `allod egress allow EXTENSION HOST` allows it."))


def _show_grants(grants: list[dict[str, Any]]) -> None:
    from allod.cli.output import moment, show_table

    rows = [
        (
            grant["extension"],
            grant["host"],
            _purpose(grant["purpose"]),
            say("once") if grant["once"] else say("always"),
            moment(grant["created_at"]),
        )
        for grant in grants
    ]
    show_table([say("EXTENSION"), say("HOST"), say("PURPOSE"), say("HOW OFTEN"), say("SINCE")], rows)


def _purpose(purpose: str) -> str:
    return say("any") if purpose == "*" else purpose


@egress.command("log", help=say("Show what has left or was refused, newest first."))
def log(
    limit: Limit = 100,
    extension: Of = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Show what has left or was refused, newest first."""
    from urllib.parse import urlencode

    from allod.cli.output import note, show_json
    from allod.cli.server import connect

    query = urlencode({"limit": limit, **({"extension": extension} if extension else {})})
    with connect(url) as client:
        found = client.request("GET", f"/api/egress/log?{query}")
    if json:
        show_json(found)
    elif found["entries"]:
        _show_log(found["entries"])
    else:
        note(say("Nothing has left, and nothing was refused."))


def _show_log(entries: list[dict[str, Any]]) -> None:
    from allod.cli.output import moment, show_table, size

    heads = [
        say("TIME"),
        say("EXTENSION"),
        say("PURPOSE"),
        say("METHOD"),
        say("HOST"),
        say("VERDICT"),
        say("STATUS"),
        say("SENT"),
        say("RECEIVED"),
    ]
    rows = [
        (
            moment(entry["at"]),
            entry["extension"],
            entry["purpose"],
            entry["method"],
            entry["host"],
            entry["verdict"],
            str(entry["status"] or ""),
            size(entry["sent_bytes"]),
            size(entry["received_bytes"]),
        )
        for entry in entries
    ]
    show_table(heads, rows, right=(6, 7, 8))


@egress.command("allow", help=say("Let an extension reach a host."))
def allow(
    extension: _Extension,
    host: _Host,
    purpose: Annotated[
        str, typer.Option("--purpose", metavar="WORD", help=say("For this purpose only."))
    ] = "*",
    once: Annotated[bool, typer.Option("--once", help=say("For one request only."))] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Let an extension reach a host."""
    from allod.cli.output import note, printable, show_json
    from allod.cli.server import connect

    wanted = {"extension": extension, "host": host, "purpose": purpose, "once": once}
    with connect(url) as client:
        grant = client.request("POST", "/api/egress/grants", wanted)
    if json:
        show_json(grant)
        return
    names = {"extension": extension, "host": grant["host"], "purpose": _purpose(grant["purpose"])}
    said = (
        say("{extension} may reach {host} once (purpose: {purpose}).", **names)
        if grant["once"]
        else say("{extension} may reach {host} (purpose: {purpose}).", **names)
    )
    print(printable(said))
    if not grant["is_declared"]:
        note(say("It will not, though: its manifest does not declare that host."))


@egress.command("deny", help=say("Take back what was allowed; what is under way by it ends."))
def deny(
    extension: _Extension,
    host: _Host,
    purpose: Annotated[
        str | None, typer.Option("--purpose", metavar="WORD", help=say("For this purpose only."))
    ] = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Take back what was allowed; what is under way by it ends."""
    from urllib.parse import urlencode

    from allod.cli.output import printable, show_json
    from allod.cli.server import connect

    meant = {"extension": extension, "host": host, **({"purpose": purpose} if purpose else {})}
    with connect(url) as client:
        client.request("DELETE", f"/api/egress/grants?{urlencode(meant)}")
    if json:
        show_json({"denied": meant})
    elif purpose:
        said = say("{extension} may no longer reach {host} for {purpose}.", **meant)
        print(printable(said))
    else:
        print(printable(say("{extension} may no longer reach {host}.", **meant)))


@egress.command("offline", help=say("Cut everything off (on), or allow again what is allowed (off)."))
def offline(
    switch: Annotated[
        Literal["on", "off"] | None, typer.Argument(metavar="on|off", show_default=False, hidden=True)
    ] = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Cut everything off (on), or allow again what is allowed (off)."""
    from allod.cli.output import show_json
    from allod.cli.server import connect

    with connect(url) as client:
        if switch is None:
            state = client.request("GET", "/api/egress")
        else:
            state = client.request("PUT", "/api/egress/offline", {"offline": switch == "on"})
    if json:
        show_json({"offline": state["offline"]})
    else:
        _tell_switch(state)


def _tell_switch(state: dict[str, Any]) -> None:
    if state["offline"]:
        print(say("Offline: nothing leaves, whatever is allowed."))
    else:
        print(say("Online: what is allowed may leave, and nothing else."))
