"""Opens the listening sockets, and says plainly why one cannot be opened."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

import psutil

from allod.gateway.auth import is_loopback, leaves_machine
from allod.kernel.server_settings import ServerSettings
from allod.sdk.errors import StartFailed

_BACKLOG = 2048
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def listen(settings: ServerSettings, *, has_key: bool) -> list[socket.socket]:
    """Sockets on all addresses of the settings, on one port. `has_key`: whether there is an API key, or may be one.

    A machine without IPv6 does without ::1. Raises StartFailed: a port that is taken, an address that is not this
    machine's, an address that others can reach while there is no API key, TLS files that cannot be used.
    """
    problem = settings.tls_problem()
    if not problem and (settings.tls_certificate is None) != (settings.tls_key is None):
        problem = "TLS needs a certificate and a key, and only one of them is set"
    if problem:
        raise StartFailed(f"{problem}.", fix="Name the certificate chain and its private key, both as PEM.")
    open_to_others = leaves_machine(settings.host)
    if open_to_others and not has_key:
        raise StartFailed(
            f"Others can reach {', '.join(open_to_others)}, and there is no API key yet.",
            fix="Make one first: allod keys create NAME",
        )
    sockets: list[socket.socket] = []
    port = settings.port
    try:
        for host in settings.host:
            made = _listen(host, port)
            if made is not None:
                sockets.append(made)
                port = made.getsockname()[1]  # port 0 took a free one, which the other addresses share
    except BaseException:
        for each in sockets:
            each.close()
        raise
    if not sockets:
        raise StartFailed(
            f"None of {', '.join(settings.host)} is an address of this machine.", fix="Set server.host."
        )
    return sockets


def _listen(host: str, port: int) -> socket.socket | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        made = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        _raise_unless_absent(host, port, error)
        return None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((host, port))
        made.listen(_BACKLOG)
    except OSError as error:
        made.close()
        _raise_unless_absent(host, port, error)
        return None
    made.setblocking(False)
    return made


def _raise_unless_absent(host: str, port: int, error: OSError) -> None:
    """Raise StartFailed, unless this machine merely lacks a loopback address of that family."""
    if error.errno in _ABSENT and is_loopback(host):
        return
    if error.errno == errno.EADDRINUSE:
        raise StartFailed(
            f"Port {port} on {host} is taken{_holder(host, port)}.",
            fix="Stop it, or choose another port: --port 1338",
        ) from error
    raise StartFailed(
        f"Cannot listen on {host}, port {port}: {error.strerror}.", fix="Set server.host."
    ) from error


def _holder(host: str, port: int) -> str:
    """Who listens there, as the end of a sentence, where the system tells."""
    try:
        for connection in psutil.net_connections("tcp"):
            place = connection.laddr
            if connection.status != psutil.CONN_LISTEN or not place or not connection.pid:
                continue
            if place.port == port and place.ip in (host, "0.0.0.0", "::"):
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass  # other users' processes are not ours to see
    return ""


def urls(sockets: Sequence[socket.socket], *, tls: bool) -> list[str]:
    """The addresses as URLs."""
    scheme = "https" if tls else "http"
    names = [each.getsockname()[:2] for each in sockets]
    return [
        f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}" for host, port in names
    ]
