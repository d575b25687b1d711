"""Files of threads over HTTP: they are read, end with what names them, and show nothing to a thief."""

from __future__ import annotations

import base64
import json
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from allod.testing.server import RunningServer, running_server
from tests.http_client import Reply, get, owner, post, request

C = "/api/conversational"
PNG = b"\x89PNG\r\n\x1a\n" + secrets.token_bytes(3 << 20)
MARK = f"ALLODCANARY{secrets.token_hex(6)}"
TEXT = f"The code word is {MARK}. ".encode() * 20
SETTINGS = """
[server]
preload = false
[conversational]
titles = false
attachment_mib = 4
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("attachments")
    (folder / "tmp").mkdir()
    environment = {"TMPDIR": str(folder / "tmp")}
    with running_server(folder / "home", settings=SETTINGS, environment=environment) as running:
        yield running


def thread_of(server: RunningServer, **fields: Any) -> str:
    return str(post(server, f"{C}/threads", fields).json["id"])


def send(
    server: RunningServer, thread: str, data: bytes, name: str = "", kind: str = "application/octet-stream"
) -> Reply:
    headers = {**owner(server), "Content-Type": kind}
    if name:
        headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{name}"
    return request(server, "POST", f"{C}/threads/{thread}/attachments", data, headers)


def sent(server: RunningServer, thread: str, data: bytes, name: str = "", **more: Any) -> dict[str, Any]:
    reply = send(server, thread, data, name, **more)
    assert reply.status == 201, reply.body
    part: dict[str, Any] = reply.json
    return part


def asked(server: RunningServer, thread: str, parts: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Ask, wait for the answer, and give what was begun."""
    reply = post(server, f"{C}/threads/{thread}/runs", {"input": parts, "parameters": {"max_tokens": 4}})
    assert reply.status == 202, reply.body
    begun: dict[str, Any] = reply.json
    assert b"event: ended" in get(server, f"{C}/runs/{begun['run']}/events").body
    return begun


def blobs(server: RunningServer) -> set[str]:
    return {file.name for file in (server.home / "blobs").rglob("*") if file.is_file()}


def test_files_are_sent_and_read_and_gone_with_their_message(server: RunningServer) -> None:
    thread = thread_of(server)
    text = sent(server, thread, TEXT, "r%C3%A9sum%C3%A9%20%E4%BD%A0.txt", kind="text/plain")
    image = sent(server, thread, PNG, "dot.svg", kind="image/svg+xml")
    assert text == {
        "type": "file",
        "blob": text["blob"],
        "media_type": "text/plain",
        "name": "résumé 你.txt",
        "bytes": len(TEXT),
    }
    assert image == {
        "type": "image",
        "blob": image["blob"],
        "media_type": "image/png",
        "name": "dot.svg",
        "bytes": len(PNG),
    }
    assert blobs(server) >= {text["blob"], image["blob"]}
    begun = asked(server, thread, [text, image, {"type": "text", "text": "What is the code word?"}])
    assert begun["question"]["parts"][:2] == [text, image]
    context = get(server, f"{C}/runs/{begun['run']}/context").json
    assert context["files"] == {"texts": [text["blob"]], "images": []}  # this model does not see
    assert context["tokens"]["prompt"] > 200
    listed = get(server, f"{C}/threads/{thread}/attachments").json["attachments"]
    assert [each["blob"] for each in listed] == [text["blob"], image["blob"]]

    gone = request(server, "DELETE", f"{C}/threads/{thread}/messages/{begun['question']['id']}")
    assert gone.status == 200
    assert not blobs(server) & {text["blob"], image["blob"]}
    assert get(server, f"{C}/threads/{thread}/attachments").json == {"attachments": []}
    assert get(server, f"{C}/threads/{thread}/attachments/{text['blob']}").status == 404


def test_what_is_sent_back_runs_nowhere(server: RunningServer) -> None:
    thread = thread_of(server)
    page = b"<svg onload=alert(1)><script>alert(1)</script>"
    for data, kind, place, shown in (
        (PNG, "text/html", "inline; filename*=UTF-8''a%3Cb%2Epng", "image/png"),
        (page, "image/svg+xml", "attachment; filename*=UTF-8''a%3Cb%2Epng", "application/octet-stream"),
        (page, "image/png", "attachment; filename*=UTF-8''a%3Cb%2Epng", "application/octet-stream"),
        (page, "text/html", "attachment; filename*=UTF-8''a%3Cb%2Epng", "application/octet-stream"),
    ):
        part = sent(server, thread, data, "a%3Cb.png", kind=kind)
        reply = get(server, f"{C}/threads/{thread}/attachments/{part['blob']}")
        assert (reply.status, reply.body) == (200, data)
        assert reply.headers["content-disposition"] == place
        assert reply.headers["content-type"] == shown
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["content-security-policy"] == "sandbox; default-src 'none'"
        assert reply.headers["cache-control"] == "no-store"


def test_what_cannot_be_taken_is_refused(server: RunningServer) -> None:
    thread = thread_of(server)
    before = blobs(server)
    for reply, status, code in (
        (send(server, thread, bytes((4 << 20) + 1)), 413, "body_too_large"),
        (send(server, thread, bytes((64 << 20) + 1)), 413, "body_too_large"),
        (send(server, thread, b""), 400, "invalid_request"),
        (send(server, "thread_none", TEXT), 404, "not_found"),
        (
            post(
                server,
                f"{C}/threads/{thread}/runs",
                {
                    "input": [
                        {"type": "file", "blob": "x", "media_type": "text/plain", "name": "a", "bytes": 1}
                    ]
                },
            ),
            400,
            "invalid_request",
        ),
        (get(server, f"{C}/threads/{thread}/attachments/..%2f..%2f..%2fallod.db"), 404, "not_found"),
        (request(server, "DELETE", f"{C}/threads/{thread}/attachments/none"), 404, "not_found"),
        (
            request(
                server, "POST", f"{C}/threads/{thread}/attachments", TEXT, {"Content-Type": "text/plain"}
            ),
            401,
            "invalid_api_key",
        ),
    ):
        assert (reply.status, reply.json["code"]) == (status, code), reply.body
    assert blobs(server) == before
    assert len(sent(server, thread, bytes(4 << 20))["blob"]) == 32  # the limit itself


def test_a_thread_leaves_the_house_with_its_files_and_comes_back(server: RunningServer) -> None:
    thread = thread_of(server)
    text, image = sent(server, thread, TEXT, "a.txt"), sent(server, thread, PNG, "a.png")
    begun = asked(server, thread, [text, image])
    file = get(server, f"{C}/threads/{thread}/export?format=json").body
    attachments = json.loads(file)["threads"][0]["attachments"]
    assert {blob: base64.b64decode(data) for blob, data in attachments.items()} == {
        text["blob"]: TEXT,
        image["blob"]: PNG,
    }
    assert b"a.png" in get(server, f"{C}/threads/{thread}/export?format=md").body
    assert request(server, "DELETE", f"{C}/threads/{thread}?forever=true").status == 204
    assert not blobs(server) & {text["blob"], image["blob"]}
    (back,) = post(server, f"{C}/import", file).json["threads"]
    messages = get(server, f"{C}/threads/{back}").json["messages"]
    parts = messages[0]["parts"]
    assert [{**part, "blob": ""} for part in parts] == [{**part, "blob": ""} for part in (text, image)]
    assert begun["question"]["id"] != messages[0]["id"]
    for part, data in zip(parts, (TEXT, PNG), strict=True):
        assert get(server, f"{C}/threads/{back}/attachments/{part['blob']}").body == data
    request(server, "DELETE", f"{C}/threads/{back}?forever=true")


def forms(data: bytes) -> list[bytes]:
    """How a piece of it could stand in a file."""
    piece = data[200:260]
    return [piece, piece.hex().encode(), *(base64.b64encode(bytes(k) + piece)[8:-8] for k in range(3))]


def files_with(data: bytes, *folders: Path) -> list[Path]:
    found = []
    for folder in folders:
        for file in (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
            content = file.read_bytes()
            if any(form in content for form in forms(data)):
                found.append(file)
    return found


def test_a_stolen_folder_shows_nothing_of_a_file(server: RunningServer, tmp_path: Path) -> None:
    thread = thread_of(server)
    part = sent(server, thread, TEXT, f"{MARK}.txt")
    image = sent(server, thread, PNG)
    assert {part["blob"], image["blob"]} <= blobs(server)
    for file in (server.home / "blobs").rglob("*"):
        assert file.stat().st_mode & 0o077 == 0
    for data in (TEXT, PNG):
        assert files_with(data, server.home, server.home.parent / "tmp") == []
        for number, form in enumerate(forms(data)):  # the search finds what there is
            (tmp_path / str(number)).write_bytes(b"xx" + form + b"yy")
        assert len(files_with(data, tmp_path)) == len(forms(data))
    assert files_with(MARK.encode().ljust(300), server.home) == []
    assert MARK not in server.log_text()
    assert not any(MARK in str(path) for path in server.home.rglob("*"))


def test_what_is_in_memory_only_is_in_no_file(server: RunningServer) -> None:
    """Not even for a moment: no file below the data folder or the temporary ones is made or grows meanwhile."""
    kept = thread_of(server)
    asked(server, kept, [sent(server, kept, TEXT, "a.txt")])
    thread = thread_of(server, memory_only=True)
    places = (server.home, server.home.parent / "tmp")
    before = {file.name for file in (server.home / "blobs").rglob("*")}
    moment = time.time()
    time.sleep(0.05)  # the clock of files is coarser
    text, image = sent(server, thread, TEXT, f"{MARK}.txt"), sent(server, thread, PNG, "a.png")
    begun = asked(server, thread, [text, image])
    assert get(server, f"{C}/threads/{thread}/attachments/{image['blob']}").body == PNG
    context = get(server, f"{C}/runs/{begun['run']}/context").json
    assert context["files"]["texts"] == [text["blob"]]

    assert {file.name for file in (server.home / "blobs").rglob("*")} == before
    for place in places:
        for data in (TEXT, PNG):
            assert files_with(data, place) == []
    shared = Path(tempfile.gettempdir())
    young = [path for path in shared.iterdir() if path.is_file() and path.stat().st_mtime >= moment]
    for path in young:
        assert not any(form in path.read_bytes() for data in (TEXT, PNG) for form in forms(data)), path
    written = {
        path.relative_to(server.home).parts[0]
        for path in server.home.rglob("*")
        if path.is_file() and path.stat().st_mtime >= moment
    }
    # its own rows of models and events; what is known of model files; sockets
    assert written <= {"allod.db", "allod.db-wal", "allod.db-shm", "cache", "run"}
    assert open_files_with(server, len(PNG)) == []

    assert request(server, "DELETE", f"{C}/threads/{thread}").status == 204
    for part in (text, image):
        assert get(server, f"{C}/threads/{thread}/attachments/{part['blob']}").status == 404
    # the positive control: kept after all, it is in blobs/, sealed
    thread = thread_of(server, memory_only=True)
    asked(server, thread, [sent(server, thread, TEXT, "a.txt")])
    moved = post(server, f"{C}/threads/{thread}/keep", {}).json["id"]
    (part,) = get(server, f"{C}/threads/{moved}/attachments").json["attachments"]
    assert part["blob"] in blobs(server) - before


def open_files_with(server: RunningServer, size: int) -> list[str]:
    """Files without a name that the server holds open, and that are as large as what was sent."""
    found = []
    for handle in Path(f"/proc/{server.process.pid}/fd").iterdir():
        try:
            name = str(handle.readlink())
            if name.endswith("(deleted)") and handle.stat().st_size >= size:
                found.append(name)
        except OSError:
            continue  # closed meanwhile
    return found


def test_a_kill_between_the_file_and_its_row_leaves_nothing(home: Path) -> None:
    with running_server(home, settings=SETTINGS) as server:
        thread = thread_of(server)
        part = sent(server, thread, TEXT, "a.txt")
        folder = next((home / "blobs").rglob(part["blob"])).parent
        (folder / f"{folder.name}{'0' * 30}").write_bytes(b"what a kill leaves")
        server.process.kill()
        server.process.wait()
    with running_server(home, settings=SETTINGS) as server:
        assert blobs(server) == {part["blob"]}
        assert get(server, f"{C}/threads/{thread}/attachments/{part['blob']}").body == TEXT
        assert json.loads(get(server, f"{C}/threads/{thread}/attachments").body)["attachments"]
