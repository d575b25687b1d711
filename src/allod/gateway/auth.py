"""Who is this, and may they come in: Host (DNS rebinding), Origin (other people's pages), key or session, rights."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable, Mapping, Sequence

from allod.gateway.exchange import Headers
from allod.gateway.rights import Need, need_of
from allod.kernel.api_keys import ApiKeys
from allod.kernel.server_settings import ServerSettings
from allod.kernel.sessions import Sessions
from allod.sdk.chat import Caller
from allod.sdk.errors import Forbidden, Unauthorized

SESSION_HEADER = "allod-session"
"""Carries the half of a session that lies in the page's storage."""

_HEADERS = b"authorization, content-type, x-api-key"
_EVERYTHING = frozenset({"admin"})


class Doors:
    """Judges every request before anything else looks at it. `cookie` is the name of this server's session cookie."""

    def __init__(
        self,
        settings: Callable[[], ServerSettings],
        keys: ApiKeys,
        sessions: Sessions,
        cookie: Callable[[], str],
    ) -> None:
        self._current_settings = settings
        self._keys = keys
        self._sessions = sessions
        self._cookie = cookie
        self._settings: ServerSettings | None = None
        self._heed(settings())

    def _heed(self, settings: ServerSettings) -> ServerSettings:
        """Take over what has changed."""
        if settings is not self._settings:
            self._settings = settings
            self._hosts = {name.casefold() for name in settings.allowed_hosts}
            self._hosts |= {host.casefold() for host in settings.host if not is_loopback(host)}
            self._origins = {origin.rstrip("/").casefold() for origin in settings.allowed_origins}
        return settings

    def check_address(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> bool:
        """Whether this machine was called by a name of its own. Raises Forbidden for a name or a page not allowed."""
        settings = self._heed(self._current_settings())
        name = host_name(headers.get(b"host", b"").decode("latin-1"))
        is_local_name = name == "localhost" or name.endswith(".localhost") or is_loopback(name)
        if not is_local_name and name not in self._hosts and not self._is_own_address(name, settings):
            raise Forbidden(
                f"This server does not answer to the name {name[:100]!r}.",
                fix="Call it as localhost, or add the name to server.allowed_hosts.",
            )
        if not (path == "/" and method == "GET" and headers.get(b"sec-fetch-mode") == b"navigate"):
            self._check_origin(
                headers
            )  # the page itself may be come to from anywhere: it is the same for all
        return is_local_name

    def enter(self, method: str, path: str, client: str, headers: Mapping[bytes, bytes]) -> Caller:
        """Who asks. Raises Forbidden or Unauthorized."""
        is_local_name = self.check_address(method, path, headers)
        settings = self._heed(self._current_settings())
        caller = self._caller(headers)
        need = need_of(method, path)
        if not need.rights or caller.may(*need.rights):
            return caller
        if need.is_free_here and not settings.require_key and is_local_name and is_loopback(client):
            return caller
        raise _refusal(need, caller, headers)

    def _caller(self, headers: Mapping[bytes, bytes]) -> Caller:
        """Whose key or session it is; nobody's where there is none that holds."""
        secret = key_in(headers)
        if secret is not None:
            key = self._keys.find(secret)
            return Caller() if key is None else Caller(key.id, key.rights)
        header = headers.get(SESSION_HEADER.encode())
        cookie = cookie_in(headers, self._cookie()) if header else None
        session = self._sessions.find(cookie, header.decode("latin-1")) if header and cookie else None
        return Caller() if session is None else Caller(session.id, _EVERYTHING)

    def _is_own_address(self, name: str, settings: ServerSettings) -> bool:
        """An IP address cannot be rebound by DNS; it may be ours when we listen beyond loopback."""
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return any(not is_loopback(host) for host in settings.host)

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


def _refusal(need: Need, caller: Caller, headers: Mapping[bytes, bytes]) -> Unauthorized | Forbidden:
    if caller.key_id is not None:
        wanted = " or ".join(repr(right) for right in need.rights)
        return Forbidden(
            f"This key has not the right {wanted}.", fix=f"allod keys create NAME --right {need.rights[-1]}"
        )
    said = "A key or a session is needed here."
    if key_in(headers) is not None:
        said = "This API key is not known, or has expired."
    elif headers.get(SESSION_HEADER.encode()):
        said = "This session is not known, or has ended."
    return Unauthorized(
        said,
        fix="Send Authorization: Bearer KEY; `allod keys create NAME` makes one. `allod open` opens the browser.",
    )


def cookie_in(headers: Mapping[bytes, bytes], name: str) -> str | None:
    """The cookie of this name."""
    for pair in headers.get(b"cookie", b"").decode("latin-1").split(";"):
        key, _, value = pair.strip().partition("=")
        if key == name and value:
            return value
    return None


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
