"""`allod assistants`: the user's assistants, their versions, and files of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from allod.cli.assistant_fields import (
    Avatar,
    Description,
    Instructions,
    Knowledge,
    MemoryOnly,
    Model,
    Preset,
    Starters,
    Tools,
    fields_of,
)
from allod.cli.failures import Exit, Failure
from allod.cli.options import Json, Settings, Url, hand_on, parse_pairs
from allod.cli.words import say

assistants = typer.Typer(rich_markup_mode=None, add_completion=False)
_ALL = "/api/assistant/assistants"

_Name: TypeAlias = Annotated[str, typer.Argument(metavar="NAME", show_default=False, hidden=True)]
_Version: TypeAlias = Annotated[
    int, typer.Argument(metavar="VERSION", min=1, show_default=False, hidden=True)
]
_From: TypeAlias = Annotated[
    int | None, typer.Argument(metavar="FROM", min=1, show_default=False, hidden=True)
]
_To: TypeAlias = Annotated[int | None, typer.Argument(metavar="TO", min=1, show_default=False, hidden=True)]
_Force: TypeAlias = Annotated[
    bool, typer.Option("--force", help=say("Write over the file if it is there already."))
]


@assistants.callback(invoke_without_command=True)
def overview(context: typer.Context, json: Json = False, url: Url = None) -> None:
    """List the assistants, look at one, make, change or share one, bring a version back."""
    hand_on(context, json=json, url=url)
    if context.invoked_subcommand is None:
        list_assistants(json, url)


@assistants.command("list", help=say("List the assistants; * is the default one."))
def list_assistants(json: Json = False, url: Url = None) -> None:
    """List the assistants; * is the default one."""
    from allod.cli.output import moment, show_json, show_table

    found = _ask("GET", _ALL, url=url)
    if json:
        show_json(found)
        return
    heads = ["", say("NAME"), say("VERSION"), say("MODEL"), say("CHANGED"), say("ID"), say("SUMMARY")]
    rows = [
        (
            "*" if each["is_default"] else "",
            f"{each['avatar']} {each['name']}".strip(),
            str(each["version"]),
            each["model"],
            moment(each["changed_at"]),
            each["id"],
            each["description"].partition("\n")[0],
        )
        for each in found["assistants"]
    ]
    show_table(heads, rows, right=[2])


@assistants.command("show", help=say("Say all that is known of one."))
def show(
    name: _Name,
    version: Annotated[
        int | None,
        typer.Option("--version", min=1, metavar="N", help=say("As it was in this version.")),
    ] = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Say all that is known of one."""
    from allod.cli.output import printable, show_facts, show_json

    found = _ask("GET", _path(name, f"/versions/{version}" if version else ""), url=url)
    if json:
        show_json(found)
        return
    show_facts(_facts(found))
    if found["instructions"]:
        print(f"\n{printable(found['instructions'])}")


def _facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    from allod.cli.output import moment

    parameters = [f"{name}={_written(value)}" for name, value in found["parameters"].items()]
    return [
        (say("id"), found["id"]),
        (say("name"), f"{found['avatar']} {found['name']}".strip()),
        (say("summary"), found["description"]),
        (say("default"), say("yes") if found["is_default"] else ""),
        (say("version"), str(found["version"])),
        (say("changed"), moment(found["changed_at"])),
        (say("model"), found["model"]),
        (say("preset"), found["preset"]),
        (say("parameters"), " ".join(parameters)),
        (say("tools"), ", ".join(found["tools"])),
        (say("knowledge"), ", ".join(found["knowledge"])),
        (say("starters"), "\n".join(found["starters"])),
        (say("memory-only"), say("yes") if found["memory_only"] else ""),
    ]


@assistants.command("create", help=say("Make one."))
def create(
    name: _Name,
    instructions: Instructions = None,
    description: Description = None,
    avatar: Avatar = None,
    model: Model = None,
    preset: Preset = None,
    set: Settings = None,
    tool: Tools = None,
    knowledge: Knowledge = None,
    starter: Starters = None,
    memory_only: MemoryOnly = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Make one."""
    wanted = fields_of(
        instructions, description, avatar, model, preset, tool, knowledge, starter, memory_only
    )
    made = _ask("POST", _ALL, {"name": name, **wanted, "parameters": parse_pairs(set or [])}, url=url)
    _tell(say("Made the assistant {name}.", name=made["name"]), made, json)


@assistants.command("edit", help=say("Change what is named, which makes a new version."))
def edit(
    name: _Name,
    new_name: Annotated[str | None, typer.Option("--name", metavar="NAME", help=say("Its new name."))] = None,
    instructions: Instructions = None,
    description: Description = None,
    avatar: Avatar = None,
    model: Model = None,
    preset: Preset = None,
    set: Settings = None,
    tool: Tools = None,
    knowledge: Knowledge = None,
    starter: Starters = None,
    memory_only: MemoryOnly = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Change what is named, which makes a new version."""
    from allod.cli.server import connect

    wanted = fields_of(
        instructions, description, avatar, model, preset, tool, knowledge, starter, memory_only
    )
    wanted |= {} if new_name is None else {"name": new_name}
    if not wanted and not set:
        raise Failure(
            say("Nothing was named that is to change."),
            fix=say("`allod assistants edit --help` lists what can."),
            exit_code=Exit.USAGE,
        )
    with connect(url) as client:
        before = client.request("GET", _path(name))
        if set:  # a value of null takes a parameter away
            wanted["parameters"] = {**({} if preset else before["parameters"]), **parse_pairs(set)}
        wanted["if_version"] = before["version"]
        after = client.request("PATCH", _path(before["id"]), wanted)
    if after["version"] == before["version"]:
        _tell(say("{name} was so already: version {version}.", **_named(after)), after, json)
    else:
        _tell(say("{name} is at version {version} now.", **_named(after)), after, json)


@assistants.command("duplicate", help=say("Make a copy of one: NAME [NEW NAME]"))
def duplicate(
    name: _Name,
    new_name: Annotated[
        str | None, typer.Argument(metavar="NEW NAME", show_default=False, hidden=True)
    ] = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Make a copy of one: NAME [NEW NAME]"""
    made = _ask("POST", _path(name, "/duplicate"), {"name": new_name}, url=url)
    _tell(say("Made the assistant {name}.", name=made["name"]), made, json)


@assistants.command("delete", help=say("Delete one with all its versions."))
def delete(
    name: _Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help=say("Do not ask."))] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Delete one with all its versions."""
    from allod.cli.asking import confirm
    from allod.cli.server import connect

    with connect(url) as client:
        found = client.request("GET", _path(name))
        if not yes:
            confirm(say("Delete {name} with {version} version(s)? [y/N]", **_named(found)))
        client.request("DELETE", _path(found["id"]), timeout_s=60)
    _tell(say("Deleted the assistant {name}.", name=found["name"]), {"deleted": found["id"]}, json)


@assistants.command("default", help=say("Make one the default: it answers where a chat names none."))
def default(name: _Name, json: Json = False, url: Url = None) -> None:
    """Make one the default: it answers where a chat names none."""
    chosen = _ask("PUT", "/api/assistant/default", {"assistant": name}, url=url)
    _tell(say("{name} is the default assistant.", name=chosen["name"]), chosen, json)


@assistants.command("versions", help=say("List all versions of one, newest first."))
def versions(name: _Name, json: Json = False, url: Url = None) -> None:
    """List all versions of one, newest first."""
    from allod.cli.output import moment, show_json, show_table

    found = _ask("GET", _path(name, "/versions"), url=url)
    if json:
        show_json(found)
        return
    rows = [
        (
            str(each["version"]),
            moment(each["at"]),
            ", ".join(each["changed"]),
            str(each["restored_from"] or ""),
        )
        for each in found["versions"]
    ]
    show_table([say("VERSION"), say("TIME"), say("CHANGED FIELDS"), say("RESTORED FROM")], rows, right=[0, 3])


@assistants.command("diff", help=say("Say what changed between two versions of one: NAME [FROM] [TO]"))
def diff(name: _Name, first: _From = None, second: _To = None, json: Json = False, url: Url = None) -> None:
    """Say what changed between two versions of one: NAME [FROM] [TO]"""
    from urllib.parse import urlencode

    from allod.cli.output import note, printable, show_json

    wanted = {"from": first, "to": second}
    query = urlencode({word: number for word, number in wanted.items() if number})
    found = _ask("GET", _path(name, f"/diff?{query}"), url=url)
    if json:
        show_json(found)
    elif not found["fields"]:
        note(say("Versions {first} and {second} are the same.", first=found["from"], second=found["to"]))
    for each in () if json else found["fields"]:
        if each["diff"]:
            print(printable(each["diff"]))
        else:
            print(printable(f"{each['field']}: {_written(each['before'])} → {_written(each['after'])}"))


@assistants.command("restore", help=say("Bring an old version back, as a new one: NAME VERSION"))
def restore(name: _Name, version: _Version, json: Json = False, url: Url = None) -> None:
    """Bring an old version back, as a new one: NAME VERSION"""
    after = _ask("POST", _path(name, "/restore"), {"version": version}, url=url)
    _tell(say("{name} is at version {version} now.", **_named(after)), after, json)


@assistants.command("export", help=say("Write one into a file, or to stdout: NAME [FILE]"))
def export(
    name: _Name,
    file: Annotated[Path | None, typer.Argument(metavar="FILE", show_default=False, hidden=True)] = None,
    force: _Force = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Write one into a file, or to stdout: NAME [FILE]"""
    from json import dumps

    from allod.cli.output import show_json

    found = _ask("GET", _path(name, "/export"), url=url)
    if file is None:
        show_json(found)
        return
    if file.exists() and not force:
        raise Failure(
            say("{path} exists already.", path=repr(str(file))),
            fix=say("Choose another name, or write over it with --force."),
            exit_code=Exit.USAGE,
        )
    try:
        file.write_text(dumps(found, ensure_ascii=False, indent=2) + "\n", "utf-8")
    except OSError as error:
        reason = error.strerror or ""
        raise Failure(
            say("{path} cannot be written: {reason}.", path=repr(str(file)), reason=reason)
        ) from error
    _tell(say("Wrote {path}.", path=file), {"file": str(file)}, json)


@assistants.command("import", help=say("Make one from an exported file; - reads it from stdin."))
def bring_in(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False, hidden=True)],
    json: Json = False,
    url: Url = None,
) -> None:
    """Make one from an exported file; - reads it from stdin."""
    from json import loads

    try:
        read = loads(sys.stdin.read() if str(file) == "-" else file.read_text("utf-8"))
    except OSError as error:
        reason = error.strerror or ""
        raise Failure(
            say("{path} cannot be read: {reason}.", path=repr(str(file)), reason=reason), exit_code=Exit.USAGE
        ) from error
    except ValueError as error:
        raise Failure(
            say("{path} is not JSON.", path=repr(str(file))),
            fix=say("`allod assistants export NAME FILE` writes such a file."),
            exit_code=Exit.USAGE,
        ) from error
    made = _ask("POST", "/api/assistant/import", read, url=url)
    _tell(say("Made the assistant {name}.", name=made["name"]), made, json)


@assistants.command("presets", help=say("Explain the presets."))
def presets(json: Json = False, url: Url = None) -> None:
    """Explain the presets."""
    from allod.cli.output import show_json, tell

    found = _ask("GET", "/api/assistant/presets", url=url)
    if json:
        show_json(found)
        return
    for each in found["presets"]:
        numbers = " ".join(f"{name}={_written(value)}" for name, value in each["parameters"].items())
        tell(f"{each['name']}: {numbers}\n{each['explanation']}\n")


def _ask(method: str, path: str, body: Any = None, *, url: str | None) -> Any:
    from allod.cli.server import connect

    with connect(url) as client:
        return client.request(method, path, body)


def _path(name: str, act: str = "") -> str:
    from urllib.parse import quote

    return f"{_ALL}/{quote(name, safe='')}{act}"


def _named(assistant: dict[str, Any]) -> dict[str, Any]:
    return {"name": assistant["name"], "version": assistant["version"]}


def _tell(text: str, result: dict[str, Any], json: bool) -> None:
    from allod.cli.output import printable, show_json

    if json:
        show_json(result)
    else:
        print(printable(text))


def _written(value: Any) -> str:
    from json import dumps

    return "-" if value is None else dumps(value, ensure_ascii=False)
