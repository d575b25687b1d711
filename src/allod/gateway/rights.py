"""What one must be allowed to do to enter a route: it hangs on what the route touches, not on its prefix."""

from __future__ import annotations

from dataclasses import dataclass

OPEN_PATHS = frozenset(
    {"/", "/health", "/health/live", "/health/ready", "/api/sessions/open", "/api/vault/unlock"}
)
"""Open to everybody who reaches the server: signs of life, the page, and what asks for a token or passphrase itself."""

OLLAMA = frozenset(f"/api/{word}" for word in "chat generate tags show ps embed embeddings version".split())
"""Ollama's words for what is stateless."""

_LOOKING = frozenset({"GET", "HEAD"})
_FOR_THE_OWNER = frozenset({"backup", "keys", "sessions", "vault", "egress"})


@dataclass(frozen=True, slots=True)
class Need:
    """Any one of `rights` lets in; none asked where it is empty. `is_free_here`: nor of this machine's programs."""

    rights: tuple[str, ...] = ()
    is_free_here: bool = False


OPEN = Need()
STATELESS = Need(("chat", "read"), is_free_here=True)


def need_of(method: str, path: str) -> Need:
    """What `method` on `path` asks for. "admin" lets in everywhere, so it is not named."""
    if path in OPEN_PATHS or path.startswith("/page/"):
        return OPEN
    if path == "/metrics":
        return Need(("read",))
    if path in OLLAMA or not path.startswith("/api/"):
        return STATELESS
    name = path.split("/", 3)[2]
    if name in _FOR_THE_OWNER:
        return Need(("admin",))
    return Need(("read", name)) if method in _LOOKING else Need((name,))


def opens_while_locked(path: str) -> bool:
    """Whether a server whose store is locked answers there."""
    return path in OPEN_PATHS or path.startswith(("/page/", "/docs", "/openapi.json")) or path == "/api/vault"
