"""`allod keys`: API keys, which programs need where this server is not open to all of this machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from allod.cli.options import Json, Url, hand_on
from allod.cli.words import say

keys = typer.Typer(rich_markup_mode=None, add_completion=False)


@keys.callback(invoke_without_command=True)
def show(context: typer.Context, json: Json = False, url: Url = None) -> None:
    """List the API keys, make or remove one."""
    hand_on(context, json=json, url=url)
    if context.invoked_subcommand is None:
        list_keys(json, url)


@keys.command("list", help=say("List all keys; the keys themselves are not kept."))
def list_keys(json: Json = False, url: Url = None) -> None:
    """List all keys; the keys themselves are not kept."""
    from allod.cli.output import moment, note, show_json, show_table
    from allod.cli.server import connect

    with connect(url) as client:
        found = client.request("GET", "/api/keys")
    if json:
        show_json(found)
    elif not found["keys"]:
        note(say("There is no API key. `allod keys create NAME` makes one."))
    else:
        heads = [say("ID"), say("NAME"), say("RIGHTS"), say("CREATED"), say("EXPIRES"), say("LAST USED")]
        rows = [
            (
                key["id"],
                key["name"],
                ", ".join(key["rights"]),
                moment(key["created_at"]),
                say("has expired") if key["has_expired"] else moment(key["expires_at"]) or say("never"),
                moment(key["last_used_at"]) or say("never"),
            )
            for key in found["keys"]
        ]
        show_table(heads, rows)


@keys.command("create", help=say("Make a key; it is shown this once."))
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, hidden=True)],
    rights: Annotated[
        list[str] | None,
        typer.Option(
            "--right",
            metavar="RIGHT",
            help=say(
                "What it may: chat, read, admin, or an extension's name for its routes; may be repeated. "
                "Default: chat."
            ),
        ),
    ] = None,
    expires_in_days: Annotated[
        float | None, typer.Option("--expires-in-days", metavar="N", help=say("Default: never."))
    ] = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Make a key; it is shown this once."""
    from allod.cli.output import note, show_json
    from allod.cli.server import connect

    wanted: dict[str, Any] = {"name": name}
    if rights:
        wanted["rights"] = rights
    if expires_in_days is not None:
        wanted["expires_in_days"] = expires_in_days
    with connect(url) as client:
        made = client.request("POST", "/api/keys", wanted)
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
