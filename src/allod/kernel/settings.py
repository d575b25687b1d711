"""Settings: one pydantic model for each namespace, filled from four places, each over the one before.

    default < config.toml < environment < what the user changed (kept in the store) < command line

`[server] port = 1338` in the file, `ALLOD_SERVER__PORT=1338` in the environment, or ALLOD_PORT for short.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
import tomllib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from allod.sdk.errors import BadRequest, NotFound, StartFailed

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from allod.kernel.storage import Database

M = TypeVar("M", bound=BaseModel)
Source = Literal["default", "file", "environment", "user", "command line"]
Listener = Callable[[Any], Awaitable[None]]

_SHORT_NAMES = {"ALLOD_PORT": ("server", "port")}
_log = logging.getLogger("allod.settings")


class Settings:
    """All namespaces. `overrides` are the command line's. Without `attach`, nothing can be changed."""

    def __init__(self, file: Path, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._overrides = overrides or {}
        self._file = _read(file)
        self._stored: dict[str, dict[str, Any]] = {}
        self._models: dict[str, type[BaseModel]] = {}
        self._current: dict[str, BaseModel] = {}
        self._problems: dict[str, dict[str, str]] = {}  # stored values that no longer fit, and why
        self._database: Database | None = None
        self._one_change = asyncio.Lock()

    async def attach(self, database: Database, *, without: Sequence[str] = ()) -> None:
        """Read what the user changed, but not of the namespaces `without`. Those loaded before are filled anew."""
        self._database = database
        self._stored = await database.read(_stored)
        for namespace in without:
            self._stored.pop(namespace, None)
        for namespace, model in list(self._models.items()):
            self.load(namespace, model)

    def load(self, namespace: str, model: type[M]) -> M:
        """The settings of one namespace. Raises StartFailed, which names the field and the reason.

        A value that the user once chose and that no longer fits is passed over, and said in `describe`.
        """
        problems: dict[str, str] = {}
        stored = dict(self._stored.get(namespace, {}))
        while True:
            try:
                loaded = self._validated(namespace, model, stored)
                break
            except ValidationError as error:
                field, why = _first_problem(error)
                name = field.partition(".")[0]
                if name not in stored:
                    raise self._not_startable(namespace, field, why) from None
                _log.warning("the setting %s.%s no longer fits and is passed over: %s", namespace, field, why)
                problems[name] = why
                del stored[name]
        self._models[namespace] = model
        self._problems[namespace] = problems
        self._current[namespace] = loaded
        return loaded

    def current(self, namespace: str) -> Any:
        """The settings of a namespace that was loaded, as they are now."""
        return self._current[namespace]

    def namespaces(self) -> list[str]:
        """All that were loaded."""
        return sorted(self._models)

    def unknown_tables(self) -> list[str]:
        """Tables of config.toml that belong to nobody: mistyped, or of an extension that is not installed."""
        return sorted(set(self._file) - set(self._models))

    def describe(self, namespace: str) -> dict[str, Any]:
        """Schema, values, and where each value comes from. Raises NotFound."""
        model = self._known(namespace)
        return {
            "namespace": namespace,
            "schema": model.model_json_schema(),
            "values": self._current[namespace].model_dump(mode="json"),
            "sources": {field: self._source(namespace, field) for field in model.model_fields},
            "problems": self._problems.get(namespace, {}),
        }

    async def change(
        self,
        namespace: str,
        values: Mapping[str, Any],
        tell: Listener | None = None,
        check: Callable[[Any], None] | None = None,
    ) -> list[str]:
        """Keep new values for some fields; the names of those that are now other than before.

        `check` sees the new settings first and may refuse them; `tell` is called with those from before. Raises
        BadRequest, which names the field and the reason: then nothing has changed. A field that the command line fixes
        cannot be changed.
        """
        for field in values:
            self._check_free(namespace, field)
        async with self._one_change:
            wanted = {**self._stored.get(namespace, {}), **values}
            return await self._keep(namespace, wanted, tell, check)

    async def reset(self, namespace: str, field: str, tell: Listener | None = None) -> list[str]:
        """Take back the user's change of one field."""
        if field not in self._problems.get(namespace, {}):
            self._check_free(namespace, field)
        async with self._one_change:
            kept = {name: value for name, value in self._stored.get(namespace, {}).items() if name != field}
            return await self._keep(namespace, kept, tell)

    async def _keep(
        self,
        namespace: str,
        stored: dict[str, Any],
        tell: Listener | None,
        check: Callable[[Any], None] | None = None,
    ) -> list[str]:
        assert self._database is not None, "settings are changed only where there is a store"
        model = self._known(namespace)
        before = self._current[namespace]
        unfit = {name: value for name, value in stored.items() if name in self._problems.get(namespace, {})}
        changed_anew = {name for name in unfit if stored[name] != self._stored.get(namespace, {}).get(name)}
        stored = {name: value for name, value in stored.items() if name not in unfit or name in changed_anew}
        try:
            after = self._validated(namespace, model, stored)
        except ValidationError as error:
            field, why = _first_problem(error)
            raise BadRequest(
                f"{namespace}.{field}: {why}.", fix="Nothing was changed. See its schema.", param=field
            ) from None
        if check is not None:
            check(after)
        # as the model reads it: "5" for a number is kept as 5
        plain = after.model_dump(mode="json", include=set(stored))
        await self._database.write(lambda connection: _store(connection, namespace, plain))
        self._stored[namespace] = plain
        self._current[namespace] = after
        self._problems[namespace] = {}
        changed = [name for name in model.model_fields if getattr(before, name) != getattr(after, name)]
        if changed and tell is not None:
            await tell(before)
        return changed

    def _check_free(self, namespace: str, field: str) -> None:
        if field not in self._known(namespace).model_fields:
            raise NotFound(
                f"{namespace} has no setting {field[:60]!r}.",
                fix=f"`allod settings {namespace}` lists them.",
                param=field,
            )
        if field in self._overrides.get(namespace, {}):
            raise BadRequest(
                f"{namespace}.{field} is fixed by the command line of this server.",
                fix="Start the server without that option.",
                param=field,
            )

    def _known(self, namespace: str) -> type[BaseModel]:
        if namespace not in self._models:
            raise NotFound(f"There are no settings of {namespace[:60]!r}.", fix="`allod settings` lists all.")
        return self._models[namespace]

    def _validated(self, namespace: str, model: type[M], stored: Mapping[str, Any]) -> M:
        layers = (
            self._in_file(namespace),
            _from_environment(namespace),
            stored,
            self._overrides.get(namespace, {}),
        )
        return model.model_validate({field: value for layer in layers for field, value in layer.items()})

    def _source(self, namespace: str, field: str) -> Source:
        if field in self._overrides.get(namespace, {}):
            return "command line"
        if field in self._stored.get(namespace, {}) and field not in self._problems.get(namespace, {}):
            return "user"
        if field in _from_environment(namespace):
            return "environment"
        return "file" if field in self._in_file(namespace) else "default"

    def _in_file(self, namespace: str) -> dict[str, Any]:
        table = self._file.get(namespace, {})
        if not isinstance(table, dict):
            raise StartFailed(
                f"{namespace} in config.toml is no table.",
                fix=f"Begin its settings with a line [{namespace}].",
            )
        return table

    def _not_startable(self, namespace: str, field: str, why: str) -> StartFailed:
        name = field.partition(".")[0]
        variable = next(
            (
                short
                for short, meant in _SHORT_NAMES.items()
                if meant == (namespace, name) and short in os.environ
            ),
            f"ALLOD_{namespace}__{field}".upper().replace(".", "__"),
        )
        return StartFailed(
            f"Setting {namespace}.{field}: {why}.", fix=f"Look at config.toml and at {variable}."
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8")) if file.exists() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartFailed(
            f"{file} is not valid TOML: {error}.", fix="Correct it, or move it away."
        ) from error
    except OSError as error:
        raise StartFailed(f"{file} cannot be read: {error.strerror}.", fix="Move it away.") from error


def _first_problem(error: ValidationError) -> tuple[str, str]:
    """The first field that is wrong, and why; never what was given."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    return ".".join(str(part) for part in first["loc"]), first["msg"]


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


# in the store


def _stored(connection: Connection) -> dict[str, dict[str, Any]]:
    from sqlalchemy import select

    from allod.kernel.schema import settings

    found: dict[str, dict[str, Any]] = {}
    for namespace, field, value in connection.execute(
        select(settings.c.namespace, settings.c.field, settings.c.value)
    ):
        found.setdefault(namespace, {})[field] = json.loads(value)
    return found


def _store(connection: Connection, namespace: str, values: Mapping[str, Any]) -> None:
    from sqlalchemy import delete, insert

    from allod.kernel.schema import settings

    connection.execute(delete(settings).where(settings.c.namespace == namespace))
    for field, value in values.items():
        row = {"namespace": namespace, "field": field, "value": json.dumps(value), "changed_at": time.time()}
        connection.execute(insert(settings), row)
