"""The listening sockets, and why one cannot be opened."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from allod.gateway.listen import listen, urls
from allod.kernel.server_settings import ServerSettings
from allod.sdk.errors import BadRequest, StartFailed
from allod.testing.house import standing


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


def pem(folder: Path, name: str = "", passphrase: bytes = b"") -> tuple[Path, Path]:
    """A certificate for localhost and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    built = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(), now, now)
    paths = folder / f"{name}cert.pem", folder / f"{name}key.pem"
    paths[0].write_bytes(built.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    lock = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
    return paths


def test_tls_files_that_can_be_used(tmp_path: Path) -> None:
    certificate, key = pem(tmp_path)
    assert opened(port=0, tls_certificate=certificate, tls_key=key)


@pytest.mark.parametrize("what", ["missing", "of another", "a passphrase", "no pem", "only one"])
def test_tls_files_that_cannot_be_used(tmp_path: Path, what: str) -> None:
    certificate, key = pem(tmp_path, passphrase=b"word" if what == "a passphrase" else b"")
    match what:
        case "missing":
            key.unlink()
        case "of another":
            _, key = pem(tmp_path, "other-")
        case "no pem":
            certificate.write_text("hello")
    settings: dict[str, Any] = {"tls_certificate": certificate} | (
        {} if what == "only one" else {"tls_key": key}
    )
    with pytest.raises(StartFailed, match="TLS") as caught:
        opened(port=0, **settings)
    assert "PEM" in caught.value.fix


async def test_tls_files_that_cannot_be_used_are_not_kept_as_settings(tmp_path: Path) -> None:
    certificate, key = pem(tmp_path)
    _, other = pem(tmp_path, "other-")
    async with standing(tmp_path / "data") as house:
        for wrong in (
            {"tls_key": str(tmp_path / "nowhere")},
            {"tls_certificate": str(certificate), "tls_key": str(other)},
        ):
            with pytest.raises(BadRequest) as refused:
                await house.change_settings("server", wrong)
            assert refused.value.param in wrong
            assert house.settings.current("server").tls_key is None
        await house.change_settings("server", {"tls_certificate": str(certificate)})
        await house.change_settings("server", {"tls_key": str(key)})
        key.unlink()  # what is set already does not stand in the way of other changes
        await house.change_settings("server", {"max_waiting": 9})
        assert house.settings.current("server").max_waiting == 9


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
