"""The C libraries inside the packages, as far as a module that is loaded anyway tells their versions."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version


@dataclass(frozen=True, slots=True)
class Library:
    """A library, and who says that it has this version."""

    name: str
    version: str
    said_by: str


def libraries() -> list[Library]:
    """All that are told. Blocks: the modules may have to be imported first.

    Of llama.cpp only the package that carries it is known: its metadata do not name the build, and importing it to ask
    would take 100 MB. Of SQLCipher the same holds: only a connection tells its version.
    """
    import ssl

    from cryptography.hazmat.backends.openssl.backend import backend
    from sqlcipher3 import dbapi2

    return [
        Library("SQLite", dbapi2.sqlite_version, "sqlcipher3"),
        _spelled_out(ssl.OPENSSL_VERSION, "Python"),
        _spelled_out(backend.openssl_version_text(), "cryptography"),
        Library("llama.cpp", f"as in xllamacpp {version('xllamacpp')}", "metadata"),
    ]


def _spelled_out(text: str, said_by: str) -> Library:
    """Of a text such as "OpenSSL 3.0.19 27 Jan 2026"."""
    name, number = text.split()[:2]
    return Library(name, number, said_by)
