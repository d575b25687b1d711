"""Who is this, and may they come in: Host (DNS rebinding), Origin (other people's web pages), API key."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Mapping, Sequence

from allod.gateway.exchange import Headers
from allod.kernel.api_keys import ApiKeys
from allod.kernel.settings import ServerSettings
from allod.sdk.chat import Caller
from allod.sdk.errors import Forbidden, Unauthorized

_HEADERS = b"authorization, content-type, x-api-key"
_OPEN_PATHS = ("/health", "/health/live", "/health/ready")


class Doors:
    """Judges every request before anything else looks at it."""

    def __init__(self, settings: ServerSettings, keys: ApiKeys) -> None:
        self._settings = settings
        self._keys = keys
        self._hosts = {name.casefold() for name in settings.allowed_hosts}
        self._hosts |= {host.casefold() for host in settings.host if not is_loopback(host)}
        self._origins = {origin.rstrip("/").casefold() for origin in settings.allowed_origins}

    def enter(self, path: str, client: str, headers: Mapping[bytes, bytes]) -> Caller:
        """Who asks. Raises Forbidden or Unauthorized."""
        name = host_name(headers.get(b"host", b"").decode("latin-1"))
        is_local_name = name == "localhost" or name.endswith(".localhost") or is_loopback(name)
        if not is_local_name and name not in self._hosts and not self._is_own_address(name):
            raise Forbidden(
                f"This server does not answer to the name {name[:100]!r}.",
                fix="Call it as localhost, or add the name to server.allowed_hosts.",
            )
        self._check_origin(headers)
        if path in _OPEN_PATHS:
            return Caller()
        secret = key_in(headers)
        if secret is not None:
            key = self._keys.find(secret)
            if key is not None:
                return Caller(key.id)
        is_local = is_loopback(client) and is_local_name
        if self._settings.require_key or not is_local:
            raise Unauthorized(
                "An API key is needed here." if secret is None else "This API key is not known.",
                fix="Send Authorization: Bearer KEY; `allod keys create NAME` makes one.",
            )
        return Caller()

    def _is_own_address(self, name: str) -> bool:
        """An IP address cannot be rebound by DNS; it may be ours when we listen beyond loopback."""
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return any(not is_loopback(host) for host in self._settings.host)

    def _check_origin(self, headers: Mapping[bytes, bytes]) -> None:
        origin = headers.get(b"origin")
        if origin is None:
            if headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
                raise _foreign_page("another site")
            return
        given = origin.decode("latin-1").casefold()
        own = {
            f"{scheme}://{headers.get(b'host', b'').decode('latin-1').casefold()}"
            for scheme in ("http", "https")
        }
        if given not in own and given not in self._origins:
            raise _foreign_page(repr(given[:100]))

    def cors(self, headers: Mapping[bytes, bytes]) -> Headers:
        """Headers that let an allowed page read the answer; none for all others."""
        origin = headers.get(b"origin")
        if origin is None or origin.decode("latin-1").casefold() not in self._origins:
            return ()
        return (
            (b"access-control-allow-origin", origin),
            (b"vary", b"Origin"),
            (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
            # a trusted page may send any header: clients have many of their own
            (b"access-control-allow-headers", headers.get(b"access-control-request-headers", _HEADERS)),
            (b"access-control-max-age", b"600"),
        )


def _foreign_page(who: str) -> Forbidden:
    return Forbidden(
        f"A web page of {who} asked, and it is not allowed to.",
        fix="Add its origin to server.allowed_origins if you trust it.",
    )


def key_in(headers: Mapping[bytes, bytes]) -> str | None:
    """The API key in the headers: Authorization: Bearer, or X-Api-Key."""
    scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and value.strip():
        return value.strip().decode("latin-1")
    other = headers.get(b"x-api-key", b"").strip()
    return other.decode("latin-1") if other else None


def host_name(host: str) -> str:
    """The name in a Host header, in small letters, without port, brackets and the final dot of DNS."""
    name = host.casefold()
    if name.startswith("["):
        address, _, port = name[1:].partition("]")
        return address if not port or port.startswith(":") else name
    return (name.rpartition(":")[0] if name.count(":") == 1 else name).removesuffix(".")


@functools.lru_cache(maxsize=1024)
def is_loopback(address: str) -> bool:
    """Whether it is an address that only this machine can reach."""
    if address == "localhost":
        return True
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


def leaves_machine(hosts: Sequence[str]) -> list[str]:
    """The addresses among `hosts` that others can reach."""
    return [host for host in hosts if not is_loopback(host)]
