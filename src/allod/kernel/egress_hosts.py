"""What a host is called, and where an address lies. Pure: nothing is looked up, nothing is reached.

A host has one normal form: small letters, punycode, no dot at its end, IPv6 in brackets, IPv4 mapped into IPv6 as IPv4,
and a port only where one was written. Without a port it stands for the scheme's own (443 for https, 80 for http) and
for no other: a server on another port, on this machine for example, is `localhost:8080`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yarl import URL

USER = "user"
"""In a manifest: whatever hosts the user allows it."""

_OWN_PORT = {"http": 80, "https": 443}
_AS_IT_IS = re.compile(
    r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+"
)  # RFC 3986, 2: nothing that would need quoting
_HOST = re.compile(
    r"(?P<name>[^:\[\]]*)(:(?P<port>[0-9]{1,5}))?"
    r"|\[(?P<six>[^\[\]]*:[^\[\]]*)\](:(?P<six_port>[0-9]{1,5}))?|(?P<bare>[^\[\]]*:[^\[\]]*:[^\[\]]*)"
)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(
    r"[0-9]+|0x[0-9a-f]*"
)  # as the last label it makes the whole an IPv4 address (WHATWG URL, 3.5)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_SITE_LOCAL = ipaddress.IPv6Network("fec0::/10")


class Malformed(ValueError):
    """Something that cannot be sent. Says what is wrong with it, and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where one request goes. `url` is what is sent, and what was judged: it is never read a second time."""

    url: URL
    scheme: str
    name: str
    port: int

    @property
    def host(self) -> str:
        """As it is shown and kept: with the port if that is not the scheme's own."""
        return self.names[0]

    @property
    def names(self) -> tuple[str, ...]:
        """All hosts, as a grant writes them, that this is."""
        full = _joined(self.name, self.port)
        return (_joined(self.name), full) if self.port == _OWN_PORT[self.scheme] else (full,)

    @property
    def origin(self) -> tuple[str, str, int]:
        """Who may see what is meant for it only (RFC 6454)."""
        return self.scheme, self.name, self.port


def target_of(address: str, base: URL | None = None) -> Target:
    """Where a URL leads, seen from `base` if it is relative. Raises Malformed.

    What is properly quoted is left as it is: signed addresses bear no change.
    """
    from yarl import URL  # takes a while to import, and most servers never reach out

    try:
        url = URL(address, encoded=_AS_IT_IS.fullmatch(address) is not None)
        url = url if base is None else base.join(url)
        port = url.port
    except (ValueError, TypeError):
        raise Malformed("its address is not a valid URL") from None
    if url.scheme not in _OWN_PORT:
        raise Malformed("its address is neither http nor https")
    if "@" in url.raw_authority:
        raise Malformed("its address holds a user name or a password")
    if not url.raw_host or not port:
        raise Malformed("its address names no host, or port 0")
    name = normal_name(url.raw_host)
    return Target(url.with_host(name).with_fragment(None), url.scheme, name, port)


def normal_name(text: str) -> str:
    """A host's name or address without port, in normal form. Raises Malformed for what only looks like one."""
    name = (text if text.isascii() else _punycode(text)).lower().removesuffix(".")
    try:
        if ":" in name:
            return _normal_address(ipaddress.IPv6Address(name))
        if _NUMBER.fullmatch(name.rpartition(".")[2]):
            return _normal_address(ipaddress.IPv4Address(name))
    except ValueError:
        raise Malformed("its host is not a valid IP address") from None
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise Malformed("its host is not a valid name")
    return name


def normal_host(text: str) -> str:
    """A host as the user or a manifest writes it, maybe with a port, in normal form. Raises Malformed."""
    parts = _HOST.fullmatch(text)
    if parts is None:
        raise Malformed("a host is a name or an IP address, maybe with a colon and the number of a port")
    name = parts["name"] or parts["six"] or parts["bare"] or ""
    port = int(parts["port"] or parts["six_port"] or 0)
    if port > 65535 or (not port and (parts["port"] or parts["six_port"])):
        raise Malformed("its port is not a number from 1 to 65535")
    return _joined(normal_name(name), port or None)


def normal_pattern(text: str) -> str:
    """What a manifest declares, in normal form: a host, `*.` and a name for its subdomains, or `user`."""
    if text == USER:
        return USER
    if not text.startswith("*."):
        return normal_host(text)
    host = normal_host(text[2:])
    if host.startswith("[") or _NUMBER.fullmatch(host.partition(":")[0].rpartition(".")[2]):
        raise Malformed("an address has no subdomains")
    return f"*.{host}"


def is_declared(name: str, port: int, patterns: Sequence[str]) -> bool:
    """Whether one of `patterns` other than `user` names this host. One without a port means any: grants decide."""
    hosts = (_joined(name), _joined(name, port))
    return any(
        host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
        for pattern in patterns
        for host in hosts
        if pattern != USER
    )


def could_reach(host: str, patterns: Sequence[str]) -> bool:
    """Whether an extension that declares `patterns` could ask for this host, in normal form, on some port."""
    parts = _HOST.fullmatch(host)
    assert parts is not None
    name = normal_name(parts["name"] or parts["six"] or parts["bare"] or "")
    port = int(parts["port"] or parts["six_port"] or 0)
    ports = [port] if port else list(_OWN_PORT.values())
    return USER in patterns or any(is_declared(name, each, patterns) for each in ports)


def is_local(name: str) -> bool:
    """Whether a name says itself that it may lie in the user's own network: an IP address, or localhost."""
    return (
        ":" in name
        or name.rpartition(".")[2] == "localhost"
        or bool(_NUMBER.fullmatch(name.rpartition(".")[2]))
    )


def is_public(address: str) -> bool:
    """Whether an IP address lies in the internet, and not on this machine, in a local network or in no place at all.

    IPv4 addresses within IPv6 ones (mapped, 6to4, NAT64) are looked at too.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in _NAT64:
            inner = ipaddress.IPv4Address(found.packed[-4:])
        if inner is not None:
            return is_public(str(inner))
        if found in _COMPATIBLE or found in _SITE_LOCAL:
            return False
    return found.is_global and not found.is_multicast and not found.is_reserved


def _punycode(name: str) -> str:
    from yarl import URL

    try:
        return URL.build(scheme="http", host=name).raw_host or ""
    except ValueError:
        raise Malformed("its host is not a valid name") from None


def _normal_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id:
            raise ValueError("an address with a zone means something on this machine only")
        address = address.ipv4_mapped or address
    if address.is_unspecified or address.is_multicast:
        raise ValueError("not the address of one host")
    return str(address)


def _joined(name: str, port: int | None = None) -> str:
    host = f"[{name}]" if ":" in name else name
    return host if port is None else f"{host}:{port}"
