"""A server of such an environment, and this user in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allod.testing.server import RunningServer, running_server
from tests.http_client import CHAT, Reply, owner, request, user, wait_until
from tests.packages import Environment


@dataclass(frozen=True, slots=True)
class Owner:
    """This user, with the key of the run file."""

    server: RunningServer

    def ask(self, method: str, path: str, body: Any = None) -> Reply:
        return request(self.server, method, path, body, headers=owner(self.server))

    def chat(self, text: str, **fields: Any) -> Reply:
        return self.ask("POST", CHAT, {"model": "echo", "messages": user(text), **fields})

    def state(self, name: str) -> str:
        return str(self.ask("GET", f"/api/extensions/{name}").json["state"])

    def job(self, job: str) -> dict[str, Any]:
        """A job that has ended."""
        found: dict[str, Any] = {}

        def has_ended() -> bool:
            found.update(self.ask("GET", f"/api/jobs/{job}").json)
            return found["state"] not in ("queued", "running")

        wait_until(has_ended)
        return found


@contextmanager
def serving(home: Path, environment: Environment, default_model: str = "") -> Iterator[Owner]:
    settings = f'[server]\npreload = false\ndefault_model = "{default_model}"\n'
    with running_server(home, python=environment.python, settings=settings) as server:
        yield Owner(server)
