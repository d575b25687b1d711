"""A web server on loopback that stands for the world."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True)
class Site:
    """Where it answers, and what it was asked: each time the path and the header Authorization."""

    host: str
    asked: list[tuple[str, str]] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


@contextmanager
def web_site(pages: Mapping[str, str], token: str = "") -> Iterator[Site]:
    """Serve pages by their paths; where there is a `token`, to those only who show it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown = self.headers.get("Authorization", "")
            site.asked.append((self.path, shown))
            if token and shown != f"Bearer {token}":
                self.send_error(401)
            elif self.path not in pages:
                self.send_error(404)
            else:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(pages[self.path].encode())

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site = Site(f"127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
