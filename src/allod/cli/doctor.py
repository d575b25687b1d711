"""`allod doctor`: what this machine has, and what to do about each problem."""

from __future__ import annotations

from typing import Any

from allod.cli.failures import Exit
from allod.cli.options import Json, Url
from allod.cli.words import say

_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}


def doctor(json: Json = False, url: Url = None) -> None:
    """Say what this machine has and what to do about each problem."""
    from allod.cli.output import show_json
    from allod.cli.server import connect

    with connect(url) as client:
        found = client.request("GET", "/api/doctor", timeout_s=120)
    if client.is_temporary:  # its addresses are gone with it
        found["checks"] = [_port() if check["name"] == "addresses" else check for check in found["checks"]]
    if json:
        show_json(found)
    else:
        _show(found["checks"])
    if any(check["status"] == "fail" for check in found["checks"]):
        raise SystemExit(Exit.UNEXPECTED)


def _port() -> dict[str, Any]:
    """Whether a server could listen where it usually does."""
    import socket

    from allod.cli.server import usual_port

    port = usual_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            detail = say("{port} cannot be used: {reason}", port=port, reason=error.strerror)
            fix = say("Choose another: `allod serve --port`, or ALLOD_PORT.")
            return {"name": "port", "status": "warn", "detail": detail, "fix": fix}
    return {
        "name": "port",
        "status": "ok",
        "detail": say("{port} is free; no server is running", port=port),
        "fix": "",
    }


def _show(checks: list[dict[str, Any]]) -> None:
    from rich.text import Text

    from allod.cli.output import console, printable

    screen = console()
    width = max((len(check["name"]) for check in checks), default=0)
    for check in checks:
        mark, color = _MARKS.get(check["status"], ("?", "yellow"))
        line = Text.assemble((mark, color), f" {check['name']:{width}}  ", printable(check["detail"]))
        screen.print(line, soft_wrap=True)
        if check.get("fix") and check["status"] != "ok":
            screen.print(Text(f"  {'':{width}}  → {printable(check['fix'])}", style="bold"), soft_wrap=True)
    problems = sum(check["status"] != "ok" for check in checks)
    screen.print()
    screen.print(say("All is well.") if not problems else say("To look at: {count}", count=problems))
