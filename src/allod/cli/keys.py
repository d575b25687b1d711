"""`allod keys`: API keys, which programs need where this server is not open to all of this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from allod.cli.options import Json, Url, hand_on
from allod.cli.words import say

keys = typer.Typer(rich_markup_mode=None)


@keys.callback(invoke_without_command=True)
def show(context: typer.Context, json: Json = False, url: Url = None) -> None:
    """List the API keys, make or remove one."""
    hand_on(context, json=json, url=url)
    if context.invoked_subcommand is None:
        list_keys(json, url)


@keys.command("list", help=say("List all keys; the keys themselves are not kept."))
def list_keys(json: Json = False, url: Url = None) -> None:
    """List all keys; the keys themselves are not kept."""
    import time

    from allod.cli.output import note, show_json, show_table
    from allod.cli.server import connect

    with connect(url) as client:
        found = client.request("GET", "/api/keys")
    if json:
        show_json(found)
    elif not found["keys"]:
        note(say("There is no API key. `allod keys create NAME` makes one."))
    else:
        rows = [
            (key["id"], key["name"], time.strftime("%Y-%m-%d %H:%M", time.localtime(key["created_at"])))
            for key in found["keys"]
        ]
        show_table([say("ID"), say("NAME"), say("CREATED")], rows)


@keys.command("create", help=say("Make a key; it is shown this once."))
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, hidden=True)],
    json: Json = False,
    url: Url = None,
) -> None:
    """Make a key; it is shown this once."""
    from allod.cli.output import note, show_json
    from allod.cli.server import connect

    with connect(url) as client:
        made = client.request("POST", "/api/keys", {"name": name})
    if json:
        show_json(made)
    else:
        print(made["key"])
        note(
            say(
                "Keep it now, it is not shown again. "
                "Programs send it as `Authorization: Bearer`, `allod` takes it from ALLOD_API_KEY."
            )
        )


@keys.command("remove", help=say("Make a key worthless, at once."))
def remove(
    key: Annotated[str, typer.Argument(metavar="ID", show_default=False, hidden=True)],
    json: Json = False,
    url: Url = None,
) -> None:
    """Make a key worthless, at once."""
    from urllib.parse import quote

    from allod.cli.output import show_json
    from allod.cli.server import connect

    with connect(url) as client:
        client.request("DELETE", f"/api/keys/{quote(key, safe='')}")
    if json:
        show_json({"removed": key})
    else:
        print(say("Removed the key {key}.", key=key))
