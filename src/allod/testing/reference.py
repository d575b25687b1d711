"""Prints docs/reference/ and sdk/surface.txt from the code, so that they cannot lie.

`python -m allod.testing.reference` writes them; with `--check` it compares instead, looks at the links and twins of
the Markdown files too, and ends with 1 and the list of what is not in order.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import inspect
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from allod.testing import contract
from allod.testing.house import gateway_on, standing
from allod.testing.markdown import problems_of
from allod.testing.surface import surface_of

Row = Sequence[str]
_MADE = "<!-- Printed by `make docs` from the code. Change the code, not this page. -->"
_FOLDER = "docs/reference"


def pages() -> dict[str, str]:
    """Every printed file: its path from the repository's root, and its text."""
    import allod.sdk

    os.environ["LC_ALL"] = "C"  # the command line's words, in English
    kinds = [point.load() for point in _builtin()]
    openapi = asyncio.run(_openapi())
    texts = {
        f"{_FOLDER}/settings.md": _settings(kinds),
        f"{_FOLDER}/extensions.md": _extensions(kinds),
        f"{_FOLDER}/errors.md": _errors(),
        f"{_FOLDER}/metrics.md": _metrics(),
        f"{_FOLDER}/events.md": _events(),
        f"{_FOLDER}/cli.md": _cli(),
        f"{_FOLDER}/routes.md": _routes(openapi),
        f"{_FOLDER}/openapi.json": json.dumps(openapi, indent=2, sort_keys=True, ensure_ascii=False),
        "src/allod/sdk/surface.txt": surface_of(Path(next(iter(allod.sdk.__path__))), "allod.sdk"),
    }
    return {path: text.rstrip("\n") + "\n" for path, text in texts.items()}


# settings


def _settings(kinds: Sequence[contract.Kind]) -> str:
    from allod.kernel.server_settings import ServerSettings

    parts = [
        "# Settings",
        _MADE,
        "Written in `config.toml` in the data folder, as `[namespace]` and `name = value`. The environment wins over"
        " the file; what you changed in the running server (`allod settings`, kept in the store) over both; the command"
        " line over all. In the environment, lists and tables are written as JSON.\n\n"
        "`ALLOD_HOME` is the data folder itself; `ALLOD_PORT` is short for `ALLOD_SERVER__PORT`.",
        *_namespace("server", ServerSettings),
    ]
    for kind in kinds:
        parts += _namespace(kind.manifest.name, kind.Settings)
    return "\n\n".join(parts)


def _namespace(name: str, model: type[BaseModel]) -> Iterator[str]:
    schema = model.model_json_schema()
    yield f"## {name}"
    yield str(inspect.getdoc(model))
    yield _settings_table(schema["properties"], f"ALLOD_{name}__".upper())
    for inner, inner_schema in sorted(schema.get("$defs", {}).items()):
        yield f"### {inner}"
        yield str(inner_schema.get("description", ""))
        yield _settings_table(inner_schema["properties"], None)


def _settings_table(fields: Mapping[str, Any], prefix: str | None) -> str:
    rows = [
        (
            f"`{name}`",
            *((f"`{prefix}{name.upper()}`",) if prefix else ()),
            kind_of(field),
            f"`{json.dumps(field.get('default'))}`",
            field.get("title", ""),
            field.get("description", "")
            + (" Counts at the next start." if field.get("at_next_start") else ""),
        )
        for name, field in fields.items()
    ]
    head = ("Name", *(("Environment",) if prefix else ()), "Type", "Default", "Title", "What it does")
    return _table(head, rows)


def kind_of(schema: Mapping[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(kind_of(branch) for branch in schema["anyOf"] if branch.get("type") != "null")
    kind = str(schema.get("format", schema.get("type", "anything")))
    if kind == "array":
        return f"list of {kind_of(schema.get('items', {}))}"
    if kind == "object":
        return f"table by name of {kind_of(schema.get('additionalProperties', {}))}"
    limits = [
        f"{sign} {schema[key]:g}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"))
        if key in schema
    ]
    return " ".join([kind, ", ".join(limits)]).strip()


# extensions


def _extensions(kinds: Sequence[contract.Kind]) -> str:
    from allod.sdk.extension import RESERVED_NAMES

    rows = [
        (
            f"`{manifest.name}`",
            manifest.summary,
            ", ".join(f"`{need}`" for need in manifest.needs) or "–",
            ", ".join(f"`{host}`" for host in manifest.egress) or "none",
        )
        for manifest in (kind.manifest for kind in kinds)
    ]
    return "\n\n".join(
        [
            "# Extensions",
            _MADE,
            "What comes with Allod. How to write one: [extensions.md](../extensions.md).",
            _table(("Name", "What it does", "Needs", "Hosts it may ask for"), rows),
            "## Reserved names",
            "No extension may be called one of these: "
            + ", ".join(f"`{each}`" for each in sorted(RESERVED_NAMES))
            + ".",
        ]
    )


# errors, metrics, events


def _errors() -> str:
    import allod.gateway.errors  # its own class is one of them
    from allod.sdk.errors import AllodError, StartFailed

    assert allod.gateway.errors is not None
    rows = [
        (
            "–" if kind is StartFailed else str(kind.status),
            f"`{kind.code}`",
            "–" if kind is StartFailed else f"`{kind.type}`",
            f"`{kind.source}`",
            f"`{kind.__name__}`",
            _first_line(kind),
        )
        for kind in sorted(_all_below(AllodError), key=lambda kind: (kind.status, kind.code, kind.__name__))
    ]
    return "\n\n".join(
        [
            "# Errors",
            _MADE,
            'On `/v1` an error is `{"error": {message, type, param, code, source}}`, elsewhere a problem document'
            " (RFC 9457) with the same `code`. `start_failed` is told by the command line only.",
            _table(("Status", "Code", "Type", "Source", "Class", "When"), rows),
        ]
    )


def _all_below(kind: type[Any]) -> list[type[Any]]:
    """All subclasses that can be found under their own name, once each, by name."""
    found = {}
    waiting = [kind]
    while waiting:
        for below in waiting.pop().__subclasses__():
            waiting.append(below)
            if getattr(sys.modules.get(below.__module__), below.__name__, None) is below:
                found[f"{below.__module__}.{below.__name__}"] = below
    return [found[name] for name in sorted(found) if name.startswith("allod.")]


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _metrics() -> str:
    from prometheus_client.metrics import MetricWrapperBase

    from allod.kernel.metrics import Metrics

    rows = []
    made = Metrics()
    known = {
        each: labels
        for value in vars(made).values()
        if isinstance(value, MetricWrapperBase)
        for each, labels in ((value._name, value._labelnames),)
    }
    for family in made.registry.collect():
        labels = known.get(family.name) or sorted({name for each in family.samples for name in each.labels})
        name = f"{family.name}_total" if family.type == "counter" else family.name
        said = ", ".join(f"`{label}`" for label in labels)
        rows.append((f"`{name}`", family.type, said, family.documentation))
    return "\n\n".join(
        [
            "# Metrics",
            _MADE,
            "Served at `GET /metrics` in Prometheus' text format.",
            _table(("Name", "Type", "Labels", "What it counts"), sorted(rows)),
        ]
    )


def _events() -> str:
    from allod.sdk.events import Event

    parts = [
        "# Events",
        _MADE,
        "What an extension can subscribe to (`subscriptions()`), and what `GET /api/events` tells.",
    ]
    for kind in sorted(_all_below(Event), key=lambda kind: kind.__name__):
        fields = [
            (f"`{name}`", f"`{annotation}`") for name, annotation in inspect.get_annotations(kind).items()
        ]
        parts += [f"## {kind.__name__}", str(inspect.getdoc(kind)), _table(("Field", "Type"), fields)]
    return "\n\n".join(parts)


# the command line


def _cli() -> str:
    import typer.main

    # found as a shell finds it: faces do not import each other
    (command,) = entry_points(group="console_scripts", name="allod")
    root = typer.main.get_command(importlib.import_module(command.module)._app())
    parts = ["# Commands", _MADE, f"{root.help} Every command takes `-h` or `--help`."]
    return "\n\n".join([*parts, *_commands(root, "allod")])


def _commands(group: Any, path: str) -> Iterator[str]:
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if command.hidden:
            continue
        arguments = [_argument(each) for each in command.params if each.param_type_name == "argument"]
        yield " ".join([f"## {path} {name}", *arguments])
        yield command.help or ""
        rows = [row for parameter in command.params if (row := _parameter(parameter))]
        if rows:
            yield _table(("Argument or option", "Default", "What it does"), rows)
        if hasattr(command, "list_commands"):
            yield from _commands(command, f"{path} {name}")


def _argument(parameter: Any) -> str:
    word = parameter.metavar or parameter.name.upper()
    return (word if parameter.required else f"[{word}]") + ("..." if parameter.nargs == -1 else "")


def _parameter(parameter: Any) -> Row | None:
    """The row of an option, and of an argument that its own help says more of than the heading does."""
    is_argument = parameter.param_type_name == "argument"
    if parameter.hidden or (is_argument and not parameter.help):
        return None
    if is_argument:
        shown = f"`{_argument(parameter)}`"
    else:
        value = "" if parameter.is_flag else f" {parameter.metavar or parameter.name.upper()}"
        shown = ", ".join(f"`{option}{value}`" for option in parameter.opts)
    default = parameter.default
    return shown, "" if default in (None, False) else f"`{default}`", parameter.help or ""


# routes


async def _openapi() -> dict[str, Any]:
    """The document that a server with Allod's own extensions serves."""
    with tempfile.TemporaryDirectory() as folder:
        async with standing(Path(folder), _builtin()) as house:
            return (await gateway_on(house)).document()


def _builtin() -> list[EntryPoint]:
    return [point for point in contract.installed() if point.dist is not None and point.dist.name == "allod"]


def _routes(openapi: Mapping[str, Any]) -> str:
    by_tag: dict[str, list[Row]] = {"Documentation": list(_DOCUMENTATION)}
    for path, methods in openapi["paths"].items():
        for method, route in methods.items():
            said = str(route.get("description") or route["summary"]).strip().partition("\n")[0]
            by_tag.setdefault(route["tags"][0], []).append((method.upper(), f"`{path}`", said))
    parts = [
        "# Routes",
        _MADE,
        "Fields and answers: [openapi.json](openapi.json), or `/docs` on your own server.",
    ]
    for tag, rows in sorted(by_tag.items()):
        parts += [
            f"## {tag}",
            _table(("Method", "Path", "What it does"), sorted(rows, key=lambda row: row[1])),
        ]
    return "\n\n".join(parts)


_DOCUMENTATION = (
    ("GET", "`/docs`", "This API, drawn as a page. No outside asset."),
    ("GET", "`/openapi.json`", "This API as data."),
)
"""The two that are in no OpenAPI document, because they are about it."""


def _table(head: Row, rows: Iterable[Row]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or check them. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m allod.testing.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; 1 if anything is not in order")
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="the repository (default: here)")
    options = parser.parse_args(arguments)
    root: Path = options.root
    if not (root / "src/allod").is_dir():
        parser.error(f"{root} is no working copy of Allod")
    made = pages()
    if not options.check:
        for path, text in made.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, "utf-8")
        return 0
    problems = [f"{path} is stale: run `make docs`" for path in stale(root, made)] + problems_of(root)
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    return 1 if problems else 0


def stale(root: Path, made: Mapping[str, str]) -> list[str]:
    """The files that are missing or not as the code prints them, and those in the folder that nothing prints."""
    differing = [
        path
        for path, text in made.items()
        if not (root / path).is_file() or (root / path).read_text("utf-8") != text
    ]
    present = (path.relative_to(root).as_posix() for path in sorted((root / _FOLDER).glob("*")))
    return differing + [path for path in present if path not in made]


if __name__ == "__main__":
    sys.exit(main())
