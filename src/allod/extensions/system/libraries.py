"""The C libraries inside the packages, as far as a module that is loaded anyway tells their versions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from allod.sdk.storage import Store

if TYPE_CHECKING:
    from sqlalchemy import Connection


@dataclass(frozen=True, slots=True)
class Library:
    """A library, and who says that it has this version."""

    name: str
    version: str
    said_by: str


async def libraries(store: Store) -> list[Library]:
    """All that are told. Of llama.cpp only the package that carries it: its metadata do not name the build, and
    importing it to ask would take 100 MB.
    """
    return [*await store.read(_of_the_store), *await asyncio.to_thread(_of_modules)]


def _of_the_store(connection: Connection) -> list[Library]:
    sqlite = connection.exec_driver_sql("SELECT sqlite_version()").scalar_one()
    sqlcipher = connection.exec_driver_sql("PRAGMA cipher_version").scalar_one()
    return [Library("SQLite", sqlite, "sqlcipher3"), Library("SQLCipher", sqlcipher.split()[0], "sqlcipher3")]


def _of_modules() -> list[Library]:
    """Blocks: the modules may have to be imported first."""
    import ssl

    from cryptography.hazmat.backends.openssl.backend import backend

    return [
        _spelled_out(ssl.OPENSSL_VERSION, "Python"),
        _spelled_out(backend.openssl_version_text(), "cryptography"),
        Library("llama.cpp", f"as in xllamacpp {version('xllamacpp')}", "metadata"),
    ]


def _spelled_out(text: str, said_by: str) -> Library:
    """Of a text such as "OpenSSL 3.0.19 27 Jan 2026"."""
    name, number = text.split()[:2]
    return Library(name, number, said_by)
