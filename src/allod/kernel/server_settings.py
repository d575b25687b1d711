"""What can be set for the server itself."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, JsonValue

AT_NEXT_START: dict[str, JsonValue] = {"at_next_start": True}
"""Marks a field whose change is heard of at the next start only; all others are read when they are used."""


class ServerSettings(BaseModel):
    """Settings of the server itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: list[str] = Field(
        default=["127.0.0.1", "::1"],
        title="Addresses",
        description="Addresses to listen on. Any other than this machine's own needs an API key first.",
        json_schema_extra=AT_NEXT_START,
    )
    port: int = Field(
        default=1337,
        ge=0,
        le=65535,
        title="Port",
        description="0 takes any free port.",
        json_schema_extra=AT_NEXT_START,
    )
    allowed_hosts: list[str] = Field(
        default=[],
        title="Host names",
        description="Names besides localhost by which this server may be called. Such calls need an API key.",
    )
    allowed_origins: list[str] = Field(
        default=[],
        title="Web origins",
        description="Origins of web pages that may call this server, such as http://localhost:3000.",
    )
    require_key: bool = Field(
        default=False,
        title="Require a key",
        description="Ask for an API key from this machine's programs too.",
    )
    tls_certificate: Path | None = Field(
        default=None,
        title="TLS certificate",
        description="PEM file of the certificate chain.",
        json_schema_extra=AT_NEXT_START,
    )
    tls_key: Path | None = Field(
        default=None,
        title="TLS key",
        description="PEM file of its private key.",
        json_schema_extra=AT_NEXT_START,
    )
    max_body_mib: int = Field(
        default=64, ge=1, title="Largest request", description="In MiB; larger ones are refused."
    )
    default_model: str = Field(
        default="",
        title="Default model",
        description="What `default` and `jan` stand for. Empty: chosen by Allod.",
    )
    max_waiting: int = Field(
        default=128, ge=1, title="Queue length", description="Requests that may wait for one model."
    )
    keep_alive_s: float = Field(
        default=1800,
        ge=0,
        title="Keep loaded",
        description="Seconds after its last use that a model is unloaded.",
    )
    memory_budget_mib: int = Field(
        default=0, ge=0, title="Memory for models", description="In MiB. 0: all that this machine can spare."
    )
    preload: bool = Field(
        default=True,
        title="Load at start",
        description="Load the default model when the server starts.",
        json_schema_extra=AT_NEXT_START,
    )
    allow_unwalled_workers: bool = Field(
        default=False,
        title="Allow unwalled workers",
        description="Run models even where this system offers no wall around them at all.",
        json_schema_extra=AT_NEXT_START,
    )

    def tls_problem(self) -> str:
        """Why the TLS files that are set cannot be used; empty where they can, or there are none."""
        certificate, key = self.tls_certificate, self.tls_key
        files = [path for path in (certificate, key) if path is not None]
        try:
            for file in files:
                file.open("rb").close()
            if certificate is not None and key is not None:
                import ssl  # 10 ms that only TLS needs

                context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
                context.load_cert_chain(certificate, key, "")  # without "", OpenSSL asks at the terminal
        except OSError as error:  # ssl.SSLError is one
            return f"TLS with {' and '.join(map(str, files))}: {error.strerror or error}"
        return ""
