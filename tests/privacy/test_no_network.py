"""A server that nobody has allowed anything reaches for no network: the kernel itself counts the attempts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from allod.testing.server import running_server
from tests import conftest
from tests.http_client import CHAT, get, post, request, user

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or "none but loopback" not in conftest.NETWORK,
    reason="needs a network of its own",
)


def attempts() -> int:
    """Packets of this network namespace for which there was no way: all that was not meant for loopback."""
    lines = Path("/proc/net/snmp").read_text().splitlines()
    names, values = (line.split()[1:] for line in lines if line.startswith("Ip:"))
    return int(dict(zip(names, values, strict=True))["OutNoRoutes"])


def test_the_count_counts() -> None:
    before = attempts()
    reaching = "import socket; socket.create_connection(('192.0.2.1', 443), 1)"
    assert subprocess.run([sys.executable, "-c", reaching], capture_output=True, timeout=30).returncode != 0
    asking = (
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.53', 53))"
    )
    subprocess.run([sys.executable, "-c", asking], capture_output=True, timeout=30)
    assert attempts() >= before + 2


def test_a_whole_day_s_use_tries_nothing_outside(home: Path) -> None:
    before = attempts()
    with running_server(home) as server:
        assert post(server, CHAT, {"model": "jan", "messages": user("Hello!"), "max_tokens": 8}).status == 200
        for path, methods in get(server, "/openapi.json").json["paths"].items():
            if "get" in methods and "{" not in path and path != "/api/events":
                assert get(server, path).status == 200, path
        granted = post(server, "/api/egress/grants", {"extension": "terminal", "host": "example.org"})
        assert granted.status == 201  # a grant alone reaches nothing, and looks nothing up
        assert granted.json["is_declared"] is False  # this one never could
        request(server, "PUT", "/api/egress/offline", {"offline": True})
        post(server, "/api/terminal/history", {"text": "hello"})
        post(server, "/api/extensions/terminal/restart", {})
        assert post(server, "/api/vault/slots", {"kind": "recovery"}).status == 201
    assert attempts() == before
