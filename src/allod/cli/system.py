"""`allod system`: what the server's machine is, what takes how much disk, and all licences."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from allod.cli.options import Json, Url, hand_on
from allod.cli.words import say

system = typer.Typer(rich_markup_mode=None, add_completion=False)


@system.callback(invoke_without_command=True)
def show(context: typer.Context, json: Json = False, url: Url = None) -> None:
    """Say what this machine is, which versions run, what takes how much disk."""
    hand_on(context, json=json, url=url)
    if context.invoked_subcommand is not None:
        return
    from allod.cli.output import show_json
    from allod.cli.server import connect

    with connect(url) as client:
        facts = {
            "machine": client.request("GET", "/api/system"),
            "versions": client.request("GET", "/api/system/versions"),
            "disk": client.request("GET", "/api/system/disk", timeout_s=120),
        }
    if json:
        show_json(facts)
    else:
        _show(facts)


@system.command("licences", help=say("List the licences of all that Allod runs on, or show one's texts."))
def licences(
    name: Annotated[str | None, typer.Argument(metavar="NAME", show_default=False, hidden=True)] = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """List the licences of all that Allod runs on, or show one's texts."""
    from urllib.parse import quote

    from allod.cli.output import show_json
    from allod.cli.server import connect

    place = f"/{quote(name, safe='')}" if name else ""
    with connect(url) as client:
        found = client.request("GET", f"/api/system/licences{place}")
    if json:
        show_json(found)
    elif name:
        _show_texts(found)
    else:
        _show_licences(found["packages"])


def _show(facts: dict[str, Any]) -> None:
    from allod.cli.output import duration, show_table, size

    machine, disk = facts["machine"], facts["disk"]
    libraries = [
        f"{each['name']} {each['version']} ({each['said_by']})" for each in facts["versions"]["libraries"]
    ]
    processor = say(
        "{name}, {cores} cores, {threads} threads",
        name=machine["processor"],
        cores=machine["cores"] or "?",
        threads=machine["threads"],
    )
    memory = say(
        "{free} of {total} available",
        free=_size(machine["available_bytes"]),
        total=size(machine["memory_bytes"]),
    )
    rooms = [f"{name} {size(count)}" for name, count in disk["bytes_by_room"].items() if count]
    rows = [
        (say("system"), f"{machine['system']}, {machine['kernel']}, {machine['architecture']}"),
        (say("processor"), processor),
        (say("memory"), memory),
        *(("GPU", gpu) for gpu in machine["gpus"]),
        (say("libraries"), ", ".join(libraries)),
        (say("data folder"), machine["data_folder"]),
        (say("takes"), " · ".join([_size(disk["total_bytes"]), *rooms])),
        (say("free"), _size(disk["free_bytes"])),
        (say("runs for"), duration(machine["uptime_s"])),
    ]
    show_table(["Allod", f"{machine['allod']}, Python {machine['python']}"], rows)
    if disk["unread"]:
        print(say("Not counted, because they may not be looked at: {count}", count=disk["unread"]))


def _size(count: float) -> str:
    from allod.cli.output import size

    return size(count) or "0 B"


def _show_licences(packages: list[dict[str, Any]]) -> None:
    from allod.cli.output import show_table

    heads = [say("PACKAGE"), say("VERSION"), say("LICENCE"), say("HOMEPAGE")]
    rows = [(each["name"], each["version"], each["licence"], each["homepage"]) for each in packages]
    show_table(heads, rows)


def _show_texts(package: dict[str, Any]) -> None:
    from allod.cli.output import printable

    print(printable(f"{package['name']} {package['version']} · {package['licence']} · {package['homepage']}"))
    for each in package["texts"]:
        print(f"\n--- {printable(each['file'])} ---\n\n{printable(each['text']).strip()}")
