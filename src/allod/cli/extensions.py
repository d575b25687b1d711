"""`allod extensions`: what is installed, how each fares, and switching them on and off."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import typer

from allod.cli.failures import Failure
from allod.cli.options import Json, Url, hand_on
from allod.cli.words import say

extensions = typer.Typer(rich_markup_mode=None, add_completion=False)
_START_TIMEOUT_S = 180  # each one may take 10 s, and those that need it start too
_Name: TypeAlias = Annotated[str, typer.Argument(metavar="NAME", show_default=False, hidden=True)]


@extensions.callback(invoke_without_command=True)
def overview(context: typer.Context, json: Json = False, url: Url = None) -> None:
    """List the extensions, look at one, switch it on or off."""
    hand_on(context, json=json, url=url)
    if context.invoked_subcommand is None:
        list_extensions(json, url)


@extensions.command("list", help=say("List all extensions, and why those do not run that do not."))
def list_extensions(json: Json = False, url: Url = None) -> None:
    """List all extensions, and why those do not run that do not."""
    from allod.cli.output import printable, show_json, show_table
    from allod.cli.server import connect

    with connect(url) as client:
        found = client.request("GET", "/api/extensions")
    if json:
        show_json(found)
        return
    rows = [(each["name"], each["state"], each["version"], each["summary"]) for each in found["extensions"]]
    show_table([say("NAME"), say("STATE"), say("VERSION"), say("SUMMARY")], rows)
    for each in found["extensions"]:
        if each["state"] != "active":
            print(printable(f"\n{each['name']}: {each['reason']}"))
            if each["fix"]:
                print(printable(f"  → {each['fix']}"))


@extensions.command("show", help=say("Say all that is known of one."))
def show(name: _Name, json: Json = False, url: Url = None) -> None:
    """Say all that is known of one."""
    from allod.cli.output import show_facts, show_json
    from allod.cli.server import connect

    with connect(url) as client:
        extension = client.request("GET", _path(name))
    if json:
        show_json(extension)
    else:
        show_facts(_facts(extension))


def _facts(extension: dict[str, Any]) -> list[tuple[str, str]]:
    contributed = extension["contributes"]
    lists = [(kind, names) for kind, names in contributed.items() if isinstance(names, list) and names]
    contributes = [f"{kind}: {', '.join(names)}" for kind, names in lists]
    if contributed["routes"]:
        contributes.append(f"routes: /api/{extension['name']}")
    return [
        (say("name"), extension["name"]),
        (say("summary"), extension["summary"]),
        (say("state"), extension["state"]),
        (say("reason"), extension["reason"]),
        (say("next step"), extension["fix"]),
        (say("package"), f"{extension['package']} {extension['version']}".strip()),
        (say("needs"), ", ".join(extension["needs"])),
        (say("starts after"), ", ".join(extension["after"])),
        (say("may ask to reach"), ", ".join(extension["egress"])),
        (say("contributes"), "\n".join(contributes)),
    ]


@extensions.command("enable", help=say("Start it, now and from now on; also one installed just now."))
def enable(name: _Name, json: Json = False, url: Url = None) -> None:
    """Start it, now and from now on; also one installed just now."""
    from allod.cli.output import show_json
    from allod.cli.server import connect

    with connect(url) as client:
        extension = _running(client.request("POST", _path(name, "/enable"), timeout_s=_START_TIMEOUT_S))
    if json:
        show_json(extension)
    else:
        print(say("{name} is switched on, now and from now on.", name=name))


@extensions.command("disable", help=say("Stop it and those that need it, now and from now on."))
def disable(name: _Name, json: Json = False, url: Url = None) -> None:
    """Stop it and those that need it, now and from now on."""
    from allod.cli.output import show_json
    from allod.cli.server import connect

    with connect(url) as client:
        extension = client.request("POST", _path(name, "/disable"), timeout_s=_START_TIMEOUT_S)
    if json:
        show_json(extension)
    else:
        print(say("{name} is switched off, now and from now on.", name=name))


@extensions.command("restart", help=say("Stop it and start it again, with those that need it."))
def restart(name: _Name, json: Json = False, url: Url = None) -> None:
    """Stop it and start it again, with those that need it."""
    from allod.cli.output import show_json
    from allod.cli.server import connect

    with connect(url, start=False) as client:
        extension = _running(client.request("POST", _path(name, "/restart"), timeout_s=_START_TIMEOUT_S))
    if json:
        show_json(extension)
    else:
        print(say("{name} runs again.", name=name))


def _running(extension: dict[str, Any]) -> dict[str, Any]:
    """`extension`, if it runs now. Raises Failure."""
    if extension["state"] != "active":
        detail = say("{name} does not run: {reason}", name=extension["name"], reason=extension["reason"])
        raise Failure(detail, fix=extension["fix"])
    return extension


def _path(name: str, act: str = "") -> str:
    from urllib.parse import quote

    return f"/api/extensions/{quote(name, safe='')}{act}"
