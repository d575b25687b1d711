"""Settings: one pydantic model for each namespace, filled from `config.toml`, which the environment overrides.

`[server] port = 1338` in the file, `ALLOD_SERVER__PORT=1338` in the environment, or ALLOD_PORT for short.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from allod.sdk.errors import StartFailed

M = TypeVar("M", bound=BaseModel)

_SHORT_NAMES = {"ALLOD_PORT": ("server", "port")}


class ServerSettings(BaseModel):
    """Settings of the server itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: list[str] = Field(
        default=["127.0.0.1", "::1"],
        title="Addresses",
        description="Addresses to listen on. Any other than this machine's own needs an API key first.",
    )
    port: int = Field(default=1337, ge=0, le=65535, title="Port", description="0 takes any free port.")
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
        default=None, title="TLS certificate", description="PEM file of the certificate chain."
    )
    tls_key: Path | None = Field(default=None, title="TLS key", description="PEM file of its private key.")
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
        default=True, title="Load at start", description="Load the default model when the server starts."
    )
    allow_unwalled_workers: bool = Field(
        default=False,
        title="Allow unwalled workers",
        description="Run models even where this system offers no wall around them at all.",
    )


class Settings:
    """Reads one namespace at a time. `overrides` (the command line) win over all."""

    def __init__(self, file: Path, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._overrides = overrides or {}
        try:
            self._file = tomllib.loads(file.read_text("utf-8")) if file.exists() else {}
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise StartFailed(
                f"{file} is not valid TOML: {error}.", fix="Correct it, or move it away."
            ) from error
        except OSError as error:
            raise StartFailed(f"{file} cannot be read: {error.strerror}.", fix="Move it away.") from error

    def load(self, namespace: str, model: type[M]) -> M:
        """The settings of one namespace. Raises StartFailed, which names the field and the reason."""
        in_file = self._file.get(namespace, {})
        if not isinstance(in_file, dict):
            raise StartFailed(
                f"{namespace} in config.toml is no table.",
                fix=f"Begin its settings with a line [{namespace}].",
            )
        values = {
            **in_file,
            **_from_environment(namespace),
            **self._overrides.get(namespace, {}),
        }
        try:
            return model.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            variable = f"ALLOD_{namespace}__{field}".upper().replace(".", "__")
            raise StartFailed(
                f"Setting {namespace}.{field}: {first['msg']}.", fix=f"Look at config.toml and at {variable}."
            ) from None


def _from_environment(namespace: str) -> dict[str, Any]:
    prefix = f"ALLOD_{namespace}__".upper()
    found: dict[str, Any] = {}
    for name, value in os.environ.items():
        if name in _SHORT_NAMES and _SHORT_NAMES[name][0] == namespace:
            found.setdefault(_SHORT_NAMES[name][1], value)
        elif name.startswith(prefix):
            found[name.removeprefix(prefix).lower()] = _parsed(value)
    return found


def _parsed(value: str) -> Any:
    """Lists, tables, quoted strings and null are written as JSON; of anything else the field makes what it is."""
    if not value.startswith(("[", "{", '"')) and value != "null":
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
