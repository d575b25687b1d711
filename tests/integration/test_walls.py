"""The walls around a real server's worker, as the kernel itself sees them; and no word of a prompt is kept."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from allod.extensions.llamacpp.command import worker_environment
from allod.testing.server import RunningServer
from tests.http_client import chat, get, post, worker_pid, workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="walls are for Linux")

_CANARY = "Kanarienvogel-4711-金丝雀"


@pytest.fixture(scope="module")
def worker(server: RunningServer) -> Path:
    """/proc/PID of the one worker, which has answered."""
    assert chat(server).status == 200
    return Path(f"/proc/{worker_pid(server)}")


def holds(server: RunningServer, layer: str) -> None:
    (walls,) = [row["walls"] for row in workers(server) if row["pid"]]
    if not walls[layer]:
        pytest.skip(f"this kernel refuses {layer}: {walls['why']}")


def statuses(worker: Path) -> list[dict[str, str]]:
    """What the kernel says of each of its threads."""
    texts = [(task / "status").read_text() for task in (worker / "task").iterdir()]
    return [dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line) for text in texts]


@pytest.mark.parametrize("kind", ["net", "ipc", "user"])
def test_it_lives_in_a_namespace_of_its_own(server: RunningServer, worker: Path, kind: str) -> None:
    holds(server, "namespaces")
    outside = Path(f"/proc/{server.process.pid}/ns/{kind}").readlink()
    assert (worker / "ns" / kind).readlink() != outside
    assert Path(f"/proc/self/ns/{kind}").readlink() == outside  # the server lives where it was started


def test_its_network_is_an_empty_one(server: RunningServer, worker: Path) -> None:
    holds(server, "namespaces")
    _, _, *lines = (worker / "net" / "dev").read_text().splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["lo"]
    assert {int(number) for number in lines[0].split(":")[1].split()} == {0}
    for protocol in ("tcp", "tcp6", "udp", "udp6", "raw", "packet"):
        table = worker / "net" / protocol
        assert not table.exists() or len(table.read_text().splitlines()) == 1, protocol


def test_each_of_its_sockets_is_a_unix_socket(server: RunningServer, worker: Path) -> None:
    links = [str(link.readlink()) for link in (worker / "fd").iterdir()]
    sockets = {link.removeprefix("socket:[").rstrip("]") for link in links if link.startswith("socket:")}
    assert sockets  # its own, and the ends of its standard streams, which were made by the server
    assert sockets <= unix_sockets(worker) | unix_sockets(Path(f"/proc/{server.process.pid}"))


def unix_sockets(process: Path) -> set[str]:
    """The inodes of all unix sockets of its network namespace."""
    return {line.split()[6] for line in (process / "net" / "unix").read_text().splitlines()[1:]}


def test_it_listens_in_a_folder_for_this_user_only(server: RunningServer, worker: Path) -> None:
    (path,) = server.home.glob("run/*/*/*.sock")
    assert str(path) in (worker / "net" / "unix").read_text()
    for folder in path.parents:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
        if folder == server.home:
            return


def test_no_thread_has_a_capability_or_can_gain_one(worker: Path) -> None:
    for status in statuses(worker):
        assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
        assert status["NoNewPrivs"] == "1"


def test_every_thread_is_held_to_the_filter(server: RunningServer, worker: Path) -> None:
    holds(server, "seccomp")
    assert {status["Seccomp"] for status in statuses(worker)} == {"2"}
    assert Path(f"/proc/{server.process.pid}/status").read_text().count("Seccomp:\t0") == 1


def test_it_leaves_no_core_file(worker: Path) -> None:
    (line,) = [x for x in (worker / "limits").read_text().splitlines() if x.startswith("Max core file size")]
    assert line.split()[4:6] == ["0", "0"]


def test_its_memory_is_not_this_user_s_to_read(server: RunningServer, worker: Path) -> None:
    if os.getuid() == 0:
        pytest.skip("root may read everything")
    with pytest.raises(PermissionError):
        (worker / "mem").open("rb")
    assert Path(f"/proc/{server.process.pid}/environ").read_bytes()


def test_its_environment_holds_nothing_of_the_server_s(server: RunningServer, worker: Path) -> None:
    try:
        environment = (worker / "environ").read_text()
    except PermissionError:
        pytest.skip("its own user may not read it")
    names = {entry.partition("=")[0] for entry in environment.split("\0") if entry}
    assert names == {"LANG", "HOME", "TMPDIR", *worker_environment()}
    assert "PATH=" in Path(f"/proc/{server.process.pid}/environ").read_text()


def test_nobody_is_told_where_a_model_lies(server: RunningServer) -> None:
    names = [model["id"] for model in get(server, "/v1/models").json["data"]]
    for path in ("/v1/models", *(f"/v1/models/{name}" for name in (*names, "none"))):
        body = get(server, path).body
        assert b".gguf" not in body and b"site-packages" not in body


def test_no_word_of_a_prompt_is_kept(server: RunningServer, worker: Path) -> None:
    """Whether it is answered or refused: neither in the log nor in any file of the data folder."""
    for text in (_CANARY, "word " * 9000 + _CANARY):
        for stream in (False, True):
            assert (chat(server, text, stream=stream).status == 200) is (text == _CANARY)
        post(server, "/v1/completions", {"model": "jan", "prompt": text, "max_tokens": 4})
        post(server, "/v1/embeddings", {"model": "jan", "input": text})
        post(server, "/v1/tokenize", {"model": "jan", "content": text})
    for wrong in (
        {"grammar": f'root ::= "{_CANARY}'},
        {"stop": {_CANARY: 1}},
        {"temperature": _CANARY},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": _CANARY}}}},
        {"tools": [{"type": "function", "function": {"name": _CANARY}}], "tool_choice": "required"},
        {"messages": [{"role": _CANARY, "content": _CANARY}]},
        {"messages": [{"role": "user", "content": {"text": _CANARY}}]},
    ):
        chat(server, **wrong)
    post(server, "/v1/chat/completions", f'{{"model": "jan", "messages": "{_CANARY}'.encode())
    assert f"/proc/{worker_pid(server)}" == str(worker)  # it has lived through all of it

    kept = {path: path.read_bytes() for path in server.home.rglob("*") if path.is_file()}
    kept[server.log] = server.log.read_bytes()
    for told in (worker / "cmdline", Path(f"/proc/{server.process.pid}/cmdline")):
        kept[told] = told.read_bytes()
    for form in (_CANARY.encode(), b"4711", ascii(_CANARY)[1:-1].encode()):
        assert [str(path) for path, content in kept.items() if form in content] == []
