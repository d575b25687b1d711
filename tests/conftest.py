"""Before anything else: no packet leaves. Then the real server that most tests share."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import no_network

NETWORK = no_network.enter()


def _tripwire(event: str, arguments: tuple[Any, ...]) -> None:
    """A second look, at Python's own sockets only: uvloop, C and other processes go round it."""
    if event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
        if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
            raise PermissionError(f"A test wanted to reach {host}.")
    if event == "socket.getaddrinfo" and arguments[0] not in (None, "localhost", "127.0.0.1", "::1"):
        raise PermissionError(f"A test wanted the address of {arguments[0]!r}.")


sys.addaudithook(_tripwire)

from allod.testing.server import RunningServer, running_server  # noqa: E402

MODEL = "SmolLM2-135M-Instruct.Q4_1"
"""The embedded model."""


def pytest_report_header() -> str:
    return f"network: {NETWORK}"


@pytest.fixture(scope="session", autouse=True)
def own_key_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Key files of the stores that tests make go to a folder of the tests' own, and none into this user's keyring."""
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))
    os.environ.pop("DBUS_SESSION_BUS_ADDRESS", None)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server with the embedded model, which also embeds; for tests that leave it as it was."""
    home = tmp_path_factory.mktemp("shared") / "home"
    with running_server(home, settings=SHARED_SETTINGS) as running:
        yield running


SHARED_SETTINGS = """
[llamacpp]
embeddings = "mean"
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty data folder for a server of the test's own."""
    return tmp_path / "home"
