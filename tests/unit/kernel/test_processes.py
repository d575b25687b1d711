"""What is kept of a child's own output: why it did not start, and nothing that could repeat a request."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from allod.kernel.processes import ChildProcesses
from allod.sdk.processes import Address, Walls

_TALKATIVE = """
import socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
print("before", flush=True)
while True:
    connection, _ = server.accept()
    head = connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\n{}")
    connection.close()
    if b"/health" not in head:
        print(head.decode(), flush=True)
        sys.exit(3)
"""


async def test_what_a_child_prints_once_it_is_ready_is_not_kept(tmp_path: Path) -> None:
    def command(address: Address) -> Sequence[str]:
        return [sys.executable, "-I", str(script), address.host]

    script = tmp_path / "talkative.py"
    script.write_text(_TALKATIVE)
    folder = tmp_path / "s"
    folder.mkdir()
    processes = ChildProcesses(folder)
    walls = Walls(read=(Path(sys.prefix), Path(sys.base_prefix), script))
    child = await processes.spawn("talkative", command, walls)
    await child.ensure_ready(deadline_s=20)
    assert (await child.http.request("POST", "/say", {"word": "4711"})).status == 200
    assert await child.wait() == "ended with status 3"
    assert list(child.output()) == ["before"]
    await processes.close()
