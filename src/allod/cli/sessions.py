"""`allod open` and `allod sessions`: the browser's way in, and the browsers that are in."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from allod.cli.failures import Failure
from allod.cli.options import Json, Url, hand_on
from allod.cli.words import say

sessions = typer.Typer(rich_markup_mode=None, add_completion=False)


def open_browser(
    print_file: Annotated[
        bool, typer.Option("--print", help=say("Print the file that leads in, and open no browser."))
    ] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Open the running server in a browser."""
    from allod.cli.output import show_json
    from allod.cli.server import connect

    with connect(url, start=False) as client:
        made = client.request("POST", "/api/sessions/tokens")
    file = Path(made["file"])
    if not file.exists():
        raise Failure(
            say("The file that leads in lies on the machine of {url}, not here.", url=client.url),
            fix=say("Run `allod open` there, or open {url} and unlock it by the passphrase.", url=client.url),
        )
    if not print_file:
        _open(file)
    if json:
        show_json({**made, "opened": not print_file})
    elif print_file:
        print(file)
    else:
        print(say("Opened {url} in the browser.", url=made["url"]))


def _open(file: Path) -> None:
    """Hand the file to the browser: its address, which others can see, holds no token. Raises Failure."""
    import webbrowser

    # a browser in the terminal could not run the page
    has_screen = sys.platform != "linux" or any(
        map(os.environ.get, ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"))
    )
    if not has_screen or not webbrowser.open(file.as_uri()):
        raise Failure(
            say("There is no browser here that could be opened."),
            fix=say("`allod open --print` prints a file; open it in any browser of yours within a minute."),
        )


@sessions.callback(invoke_without_command=True)
def overview(context: typer.Context, json: Json = False, url: Url = None) -> None:
    """List the browsers that are let in, or end one's session."""
    hand_on(context, json=json, url=url)
    if context.invoked_subcommand is None:
        list_sessions(json, url)


@sessions.command("list", help=say("List all sessions that have not ended."))
def list_sessions(json: Json = False, url: Url = None) -> None:
    """List all sessions that have not ended."""
    from allod.cli.output import moment, note, show_json, show_table
    from allod.cli.server import connect

    with connect(url) as client:
        found = client.request("GET", "/api/sessions")
    if json:
        show_json(found)
    elif not found["sessions"]:
        note(say("No browser is let in. `allod open` opens one."))
    else:
        rows = [
            (
                each["id"],
                moment(each["created_at"]),
                moment(each["last_used_at"]),
                moment(each["expires_at"]),
                each["label"],
            )
            for each in found["sessions"]
        ]
        show_table([say("ID"), say("CREATED"), say("LAST USED"), say("EXPIRES"), say("BROWSER")], rows)


@sessions.command("end", help=say("End a session, at once."))
def end(
    session: Annotated[str, typer.Argument(metavar="ID", show_default=False, hidden=True)],
    json: Json = False,
    url: Url = None,
) -> None:
    """End a session, at once."""
    from urllib.parse import quote

    from allod.cli.output import show_json
    from allod.cli.server import connect

    with connect(url) as client:
        client.request("DELETE", f"/api/sessions/{quote(session, safe='')}")
    if json:
        show_json({"ended": session})
    else:
        print(say("Ended the session {session}.", session=session))
