"""The listening sockets, and why one cannot be opened."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from allod.gateway.listen import listen, urls
from allod.kernel.server_settings import ServerSettings
from allod.sdk.errors import StartFailed


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that this process listens on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        yield held.getsockname()[1]


def opened(*, has_key: bool = False, **settings: Any) -> list[str]:
    sockets = listen(ServerSettings(**settings), has_key=has_key)
    try:
        return urls(sockets, tls=False)
    finally:
        for each in sockets:
            each.close()


def test_both_loopback_addresses_share_a_free_port() -> None:
    first, *others = opened(port=0)
    assert first.startswith("http://127.0.0.1:")
    port = first.rpartition(":")[2]
    assert int(port) > 0
    assert others in ([f"http://[::1]:{port}"], [])  # without IPv6 there is one


def test_with_a_certificate_it_is_https() -> None:
    sockets = listen(ServerSettings(port=0), has_key=False)
    try:
        assert [url.partition(":")[0] for url in urls(sockets, tls=True)] == ["https"] * len(sockets)
    finally:
        for each in sockets:
            each.close()


def test_a_port_that_is_taken_names_its_holder(taken: int) -> None:
    with pytest.raises(StartFailed) as caught:
        opened(port=taken)
    assert f"Port {taken} on 127.0.0.1 is taken by " in caught.value.detail
    assert f"(pid {os.getpid()})" in caught.value.detail
    assert "--port" in caught.value.fix


def test_a_port_that_is_taken_on_one_address_is_left_free_on_the_other(taken: int) -> None:
    with pytest.raises(StartFailed):
        opened(port=taken, host=["127.0.0.2", "127.0.0.1"])
    with socket.socket() as free:
        free.bind(("127.0.0.2", taken))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5"])
def test_nobody_listens_for_others_without_a_key(host: str) -> None:
    with pytest.raises(StartFailed) as caught:
        opened(port=0, host=["127.0.0.1", host])
    assert host in caught.value.detail
    assert "allod keys create" in caught.value.fix


def test_with_a_key_others_are_let_in() -> None:
    (url,) = opened(has_key=True, port=0, host=["0.0.0.0"])
    assert url.startswith("http://0.0.0.0:")


def test_an_address_of_another_machine() -> None:
    with pytest.raises(StartFailed) as caught:
        opened(has_key=True, port=0, host=["192.0.2.1"])
    assert "192.0.2.1" in caught.value.detail


def test_a_name_that_is_no_address() -> None:
    with pytest.raises(StartFailed):
        opened(has_key=True, port=0, host=["nowhere.invalid"])


def test_a_machine_without_ipv6_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    made = socket.socket

    def without_ipv6(family: int = socket.AF_INET, *more: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return made(family, *more)

    monkeypatch.setattr(socket, "socket", without_ipv6)
    (url,) = opened(port=0)
    assert url.startswith("http://127.0.0.1:")
    with pytest.raises(StartFailed, match="None of ::1"):
        opened(port=0, host=["::1"])
