"""`allod events`: what happens in the server, as it happens, until Ctrl-C."""

from __future__ import annotations

import contextlib
import time
from json import dumps

from allod.cli.client import SentEvent
from allod.cli.failures import Exit, Failure
from allod.cli.options import Json, Url
from allod.cli.words import say

_TRY_AGAIN_S = 1.0


def events(json: Json = False, url: Url = None) -> None:
    """Show what happens, a line for each event, until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        _Follower(json, url).run()


class _Follower:
    """Follows the events of one server, also over its restarts. `is_lost`: the connection broke, and it was said."""

    def __init__(self, is_json: bool, url: str | None) -> None:
        self._is_json = is_json
        self._url = url
        self._last_id = ""
        self._is_lost = False

    def run(self) -> None:
        """For ever. Raises Failure where no server can be reached at first, and where one lets nobody in."""
        while True:
            try:
                self._follow()
            except Failure as failure:
                if not self._last_id or failure.exit_code is not Exit.UNREACHABLE:
                    raise
            self._tell_lost()
            time.sleep(_TRY_AGAIN_S)

    def _follow(self) -> None:
        """Tell all events until the connection ends. A server that was started anew has another address and key."""
        from allod.cli.server import connect

        with (
            connect(self._url, start=False) as client,
            contextlib.closing(client.follow("/api/events", self._last_id)) as stream,
        ):
            for event in stream:
                self._tell_found()
                self._last_id = event.id or self._last_id
                if event.name:
                    self._tell(event)

    def _tell(self, event: SentEvent) -> None:
        from allod.cli.output import show_json

        if self._is_json:
            show_json({"id": event.id, "event": event.name, "data": event.data}, one_line=True)
        else:
            print(line(event), flush=True)

    def _tell_lost(self) -> None:
        from allod.cli.output import note

        if not self._is_lost:
            note(say("The connection was lost; trying again …"))
        self._is_lost = True

    def _tell_found(self) -> None:
        from allod.cli.output import note

        if self._is_lost:
            note(say("Connected again."))
        self._is_lost = False


def line(event: SentEvent) -> str:
    """An event in one line: when, whose, what, and its fields."""
    from allod.cli.output import printable

    fields = {name: value for name, value in event.data.items() if name not in ("at", "source")}
    said = (f"{name}={dumps(value, ensure_ascii=False)}" for name, value in fields.items())
    at = time.strftime("%H:%M:%S", time.localtime(event.data.get("at", 0)))
    return printable(" ".join((at, str(event.data.get("source", "")), event.name, *said)))
