"""What is to be sent: judged for its form when it is made, and changed as redirects demand. Nothing is sent here."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from allod.kernel.egress_hosts import Malformed, Target, target_of
from allod.sdk.errors import EgressFailed

_METHOD = re.compile(r"[A-Z]{1,20}")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_OURS = frozenset(
    "connection expect host keep-alive proxy-connection te trailer transfer-encoding upgrade".split()
)  # these belong to the connection; another Host would reach another site than the one that was judged
_TRAVELS = re.compile(r"accept(-.*)?|cache-control|content-.*|if-.*|range|user-agent", re.IGNORECASE)
_OF_BODY = re.compile(r"content-.*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `headers` by names in small letters."""

    method: str
    target: Target
    headers: Mapping[str, str]
    body: bytes | AsyncIterator[bytes] | None

    def redirected(self, status: int, location: str) -> Request:
        """What to send after an answer of `status` (RFC 9110, 15.4).

        To another origin, only those headers go along that say what is wanted and nothing of who wants it. Raises
        Malformed for a location that is no address, EgressFailed for a streamed body that would have to be sent again.
        """
        target = target_of(location, self.target.url)
        headers, method, body = self.headers, self.method, self.body
        if target.origin != self.target.origin:
            headers = {name: value for name, value in headers.items() if _TRAVELS.fullmatch(name)}
        if (status == 303 and method != "HEAD") or (status in (301, 302) and method == "POST"):
            headers = {name: value for name, value in headers.items() if not _OF_BODY.fullmatch(name)}
            method, body = "GET", None
        if body is not None and not isinstance(body, bytes):
            raise EgressFailed(
                f"{self.target.host} redirected a request whose body was streamed, and is gone by now.",
                fix="Send it to the right address at once, or hand the body over as bytes.",
            )
        return replace(self, method=method, target=target, headers=headers, body=body)


def request_of(
    method: str,
    address: str,
    headers: Mapping[str, str],
    json: Any,
    body: bytes | AsyncIterator[bytes] | None,
) -> Request:
    """What an extension asked for. Raises Malformed."""
    method = method.upper()
    if not _METHOD.fullmatch(method) or method in ("CONNECT", "TRACE"):
        raise Malformed("its method is none that may be used")
    if json is not None and body is not None:
        raise Malformed("it has two bodies")
    kept = {name.lower(): value for name, value in headers.items()}
    for name, value in kept.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise Malformed("one of its headers is not well formed")
        if name in _OURS:
            raise Malformed(f"the header {name!r} is not its to set")
    if json is not None:
        body = orjson.dumps(json)
        kept.setdefault("content-type", "application/json")
    if body is None or isinstance(body, bytes):
        kept.pop("content-length", None)
    elif not kept.get("content-length", "0").isdecimal():
        raise Malformed("its Content-Length is not a number")
    return Request(method, target_of(address), kept, body or None)
