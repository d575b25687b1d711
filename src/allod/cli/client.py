"""HTTP to one Allod server, on the standard library alone, and never through a proxy."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Generator, Iterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlsplit

from allod.cli.failures import Exit, Failure, from_answer, from_error
from allod.cli.words import say

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPResponse

_CONNECT_TIMEOUT_S = 10
_SILENCE_TIMEOUT_S = 60  # a live server writes a comment into a stream every 10 s
_PIECE_BYTES = 1 << 20


def model_path(model: str, act: str = "") -> str:
    """The address of one model below /api."""
    return f"/api/llamacpp/models/{quote(model, safe='')}{act}"


class SentEvent(NamedTuple):
    """One event of a stream. One without a name only tells its reader the id from which it can go on."""

    id: str
    name: str
    data: dict[str, Any]


class Client:
    """One server. `is_own`: this machine's own, named by its run file, so its certificate need not name loopback.

    `new_key` gives the key that lets in now, where a server that was started anew has another one.
    """

    def __init__(
        self, url: str, key: str = "", *, is_own: bool = False, new_key: Callable[[], str] | None = None
    ) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Failure(
                say("{url} is not the address of a server.", url=repr(url)),
                fix=say("Write it like http://127.0.0.1:1337."),
                exit_code=Exit.USAGE,
            )
        self.is_encrypted = parts.scheme == "https"
        self.host = parts.hostname
        self.port = parts.port or (443 if self.is_encrypted else 80)
        self.is_temporary = False  # started for one command, and gone with it
        self._base = parts.path.rstrip("/").removesuffix("/v1")
        self._key = key
        self._new_key = new_key
        self._is_own = is_own
        self._stream_socket: socket.socket | None = None
        self._is_stopped = False

    @property
    def url(self) -> str:
        """Its address, for people."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' * self.is_encrypted}://{host}:{self.port}{self._base}"

    def request(self, method: str, path: str, body: Any = None, *, timeout_s: float | None = 30) -> Any:
        """Send `body` as JSON and return the answer's JSON, None where it is empty. Raises Failure."""
        with self._answered(timeout_s, method, path, body) as response:
            return _read(response)

    def download(self, path: str) -> Generator[bytes]:
        """GET `path` and yield its bytes as they come. Raises Failure, also where the answer breaks off.

        Waits for the answer's head as long as it takes: a copy may have to be made first.
        """
        from http.client import IncompleteRead

        connection = self._connect(None)
        with contextlib.closing(connection), self._told():
            connected = connection.sock  # which the connection lets go of where the answer ends with it
            response = self._send(connection, "GET", path, None)
            if response.status >= 300:
                _read(response)
            connected.settimeout(_SILENCE_TIMEOUT_S)
            try:
                while piece := response.read(_PIECE_BYTES):
                    yield piece
            except IncompleteRead as error:
                raise _broken_off() from error

    def stream(self, path: str, body: Any) -> Generator[dict[str, Any]]:
        """POST `body` and yield each event's JSON until `[DONE]`; after `stop()` it ends early. Raises Failure.

        Waits for the answer's head as long as it takes: a model may have to be loaded first.
        """
        self._is_stopped = False
        connection = self._connect(None)
        self._stream_socket = connection.sock
        try:
            with contextlib.closing(connection), self._told():
                response = self._send(connection, "POST", path, body)
                if response.status >= 300:
                    _read(response)
                if self._stream_socket is not None:
                    self._stream_socket.settimeout(_SILENCE_TIMEOUT_S)
                yield from _events(response)
        except Failure:
            if not self._is_stopped:
                raise
        finally:
            self._stream_socket = None

    def follow(self, path: str, last_event_id: str = "") -> Generator[SentEvent]:
        """GET `path` and yield its events until the server ends the stream. Raises Failure, also where it breaks off.

        With `last_event_id`, those after that one.
        """
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        with self._answered(_SILENCE_TIMEOUT_S, "GET", path, None, headers) as response:
            if response.status >= 300:
                _read(response)
            for id, name, data in _frames(response):
                yield SentEvent(id, name, _object(data) if data else {})

    def stop(self) -> None:
        """End the running stream, at once; may be called by a signal handler."""
        self._is_stopped = True
        if self._stream_socket is not None:
            with contextlib.suppress(OSError):
                self._stream_socket.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _answered(
        self,
        timeout_s: float | None,
        method: str,
        path: str,
        body: Any,
        more_headers: Mapping[str, str] | None = None,
    ) -> Iterator[HTTPResponse]:
        """The answer's head has come; once more with the new key where the server has another one by now."""
        may_ask_again = self._new_key is not None
        while True:
            connection = self._connect(timeout_s)
            with contextlib.closing(connection), self._told():
                response = self._send(connection, method, path, body, more_headers)
                if response.status == HTTPStatus.UNAUTHORIZED and may_ask_again and self._take_new_key():
                    may_ask_again = False
                    continue
                yield response
                return

    def _take_new_key(self) -> bool:
        key = self._new_key() if self._new_key is not None else ""
        if key in ("", self._key):
            return False
        self._key = key
        return True

    def _connect(self, timeout_s: float | None) -> HTTPConnection:
        from http.client import HTTPConnection, HTTPSConnection

        connect_s = min(timeout_s or _CONNECT_TIMEOUT_S, _CONNECT_TIMEOUT_S)
        if self.is_encrypted:
            connection: HTTPConnection = HTTPSConnection(
                self.host, self.port, timeout=connect_s, context=self._tls()
            )
        else:
            connection = HTTPConnection(self.host, self.port, timeout=connect_s)
        with self._told():
            connection.connect()
        connection.sock.settimeout(timeout_s)
        return connection

    def _tls(self) -> Any:
        import ssl

        if self._is_own:
            return ssl._create_unverified_context()
        return ssl.create_default_context()

    def _send(
        self,
        connection: HTTPConnection,
        method: str,
        path: str,
        body: Any,
        more_headers: Mapping[str, str] | None = None,
    ) -> HTTPResponse:
        headers = {"Accept": "application/json, text/event-stream", **(more_headers or {})}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        connection.request(method, self._base + path, data, headers)
        return connection.getresponse()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        from http.client import HTTPException

        try:
            yield
        except (OSError, HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Failure(
                say("The server at {url} cannot be reached: {reason}.", url=self.url, reason=reason),
                fix=say("Is it running? `allod serve` starts one; --url or ALLOD_URL names another."),
                exit_code=Exit.UNREACHABLE,
            ) from error


def _read(response: HTTPResponse) -> Any:
    data = response.read()
    try:
        body = json.loads(data) if data else None
    except ValueError:
        body = None
    if response.status >= 300:
        raise from_answer(response.status, body)
    return body


def _events(response: HTTPResponse) -> Iterator[dict[str, Any]]:
    for _, _, data in _frames(response):
        if data == b"[DONE]":
            return
        if data:
            yield _event(data)
    raise _broken_off()


def _frames(response: HTTPResponse) -> Iterator[tuple[str, str, bytes]]:
    """Server-sent events as they come: id, name and data; also those that only tell an id (HTML, 9.2.6)."""
    id, name, data = "", "", b""
    is_told = True
    while line := response.readline():
        line = line.rstrip(b"\r\n")
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data += value + b"\n"
        elif field == b"event":
            name = value.decode("utf-8", "replace")
        elif field == b"id":
            id, is_told = value.decode("utf-8", "replace"), False
        elif not line and (data or not is_told):
            yield id, name, data.strip()
            name, data, is_told = "", b"", True


def _broken_off() -> Failure:
    return Failure(
        say("The answer broke off: the server closed the connection before its end."),
        fix=say("Ask again; the server's log may say more."),
        exit_code=Exit.ENGINE_FAILED,
    )


def _event(data: bytes) -> dict[str, Any]:
    """An event of an answer, which may be the error that ends it."""
    event = _object(data)
    if isinstance(event.get("error"), dict):
        raise from_error(event["error"])
    return event


def _object(data: bytes) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError as error:
        raise Failure(say("The server sent something that is not an event of a stream.")) from error
    if not isinstance(event, dict):
        raise Failure(say("The server sent something that is not an event of a stream."))
    return event
