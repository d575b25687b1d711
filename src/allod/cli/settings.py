"""`allod settings`: what can be set, where each value comes from, and changing it."""

from __future__ import annotations

from difflib import get_close_matches
from json import dumps
from typing import Annotated, Any, TypeAlias
from urllib.parse import quote

import typer
from typer.core import TyperGroup

from allod.cli.client import Client
from allod.cli.failures import Exit, Failure
from allod.cli.options import Json, Url, hand_on, parse_value
from allod.cli.words import say

_Setting: TypeAlias = Annotated[
    str, typer.Argument(metavar="NAMESPACE.FIELD", show_default=False, hidden=True)
]


class _Settings(TyperGroup):
    """`allod settings NAMESPACE` is short for `allod settings list NAMESPACE`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["list", *args]
        return super().resolve_command(ctx, args)


settings = typer.Typer(
    cls=_Settings,
    rich_markup_mode=None,
    add_completion=False,
    subcommand_metavar="[NAMESPACE | COMMAND [ARGS]...]",
)


@settings.callback(invoke_without_command=True)
def overview(context: typer.Context, json: Json = False, url: Url = None) -> None:
    """List the settings, of one extension or of all; change one."""
    hand_on(context, json=json, url=url)
    if context.invoked_subcommand is None:
        list_settings(None, json, url)


@settings.command("list", help=say("List the settings of some namespaces, or all."))
def list_settings(
    namespaces: Annotated[
        list[str] | None, typer.Argument(metavar="NAMESPACE", show_default=False, hidden=True)
    ] = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """List the settings of some namespaces, or all."""
    from allod.cli.output import note, show_json, show_table
    from allod.cli.server import connect

    with connect(url) as client:
        if namespaces:
            found = [_described(client, namespace) for namespace in namespaces]
        else:
            found = client.request("GET", "/api/settings")["settings"]
    if json:
        show_json({"settings": found})
        return
    rows = [
        (f"{each['namespace']}.{name}", _shown(value), each["sources"][name], _facts(each, name)["title"])
        for each in found
        for name, value in each["values"].items()
    ]
    show_table([say("SETTING"), say("VALUE"), say("FROM"), say("TITLE")], rows)
    for each in found:
        for field, problem in each["problems"].items():
            setting = f"{each['namespace']}.{field}"
            note(say("Your value of {setting} no longer fits: {problem}.", setting=setting, problem=problem))


@settings.command("get", help=say("Print one value."))
def get(setting: _Setting, json: Json = False, url: Url = None) -> None:
    """Print one value."""
    from allod.cli.output import show_json
    from allod.cli.server import connect

    namespace, field = _parted(setting)
    with connect(url) as client:
        _check_not_its_own(client, setting)
        described = _described(client, namespace)
    if field not in described["values"]:
        raise _no_such(namespace, field, described)
    if json:
        show_json(_result(described, field))
    else:
        print(_shown(described["values"][field]))


@settings.command(
    "set",
    help=say("Change one; the value is read as JSON where it is JSON."),
    context_settings={"ignore_unknown_options": True},  # a value may be -1
)
def set_one(
    setting: _Setting,
    value: Annotated[str, typer.Argument(metavar="VALUE", show_default=False, hidden=True)],
    json: Json = False,
    url: Url = None,
) -> None:
    """Change one; the value is read as JSON where it is JSON."""
    from allod.cli.server import connect

    namespace, field = _parted(setting)
    with connect(url) as client:
        _check_not_its_own(client, setting)
        described = client.request("PATCH", _path(namespace), {field: parse_value(value)})
    _tell_changed(described, field, json)


@settings.command("reset", help=say("Take your change back."))
def reset(setting: _Setting, json: Json = False, url: Url = None) -> None:
    """Take your change back."""
    from allod.cli.server import connect

    namespace, field = _parted(setting)
    with connect(url) as client:
        _check_not_its_own(client, setting)
        described = client.request("DELETE", f"{_path(namespace)}/{quote(field, safe='')}")
    _tell_changed(described, field, json)


def _tell_changed(described: dict[str, Any], field: str, json: bool) -> None:
    from allod.cli.output import note, printable, show_json

    result = _result(described, field)
    if json:
        show_json(result)
        return
    said = say(
        "{setting} is {value} (from: {source}).",
        setting=result["setting"],
        value=dumps(result["value"], ensure_ascii=False),
        source=result["source"],
    )
    print(printable(said))
    if result["at_next_start"]:
        note(say("This counts from the server's next start on."))


def _result(described: dict[str, Any], field: str) -> dict[str, Any]:
    facts = _facts(described, field)
    return {
        "setting": f"{described['namespace']}.{field}",
        "value": described["values"][field],
        "source": described["sources"][field],
        "title": facts["title"],
        "description": facts.get("description", ""),
        "at_next_start": bool(facts.get("at_next_start")),
    }


def _facts(described: dict[str, Any], field: str) -> dict[str, Any]:
    """What the schema says of a field."""
    return {"title": "", **described["schema"]["properties"].get(field, {})}


def _shown(value: Any) -> str:
    from allod.cli.output import printable

    return printable(value if isinstance(value, str) else dumps(value, ensure_ascii=False))


def _parted(setting: str) -> tuple[str, str]:
    namespace, _, field = setting.partition(".")
    if not namespace or not field:
        raise Failure(
            say("{setting} is not the name of a setting.", setting=repr(setting)),
            fix=say("Write it like server.port; `allod settings` lists all."),
            exit_code=Exit.USAGE,
        )
    return namespace, field


def _check_not_its_own(client: Client, setting: str) -> None:
    """Raises Failure for what a server of a command's own time has chosen for itself."""
    if client.is_temporary and setting in ("server.host", "server.port"):
        raise Failure(
            say("No server is running that {setting} could be asked of.", setting=setting),
            fix=say("Run `allod serve` and try again beside it, or write it into config.toml."),
            exit_code=Exit.UNREACHABLE,
        )


def _described(client: Client, namespace: str) -> dict[str, Any]:
    """What the server says of a namespace. Raises Failure, which knows that a command may have been meant."""
    try:
        found: dict[str, Any] = client.request("GET", _path(namespace))
    except Failure as failure:
        if failure.exit_code is Exit.NOT_FOUND and (near := get_close_matches(namespace, _COMMANDS, 1)):
            failure.fix = say("Did you mean `allod settings {name}`?", name=near[0])
        raise
    return found


_COMMANDS = ("list", "get", "set", "reset")


def _no_such(namespace: str, field: str, described: dict[str, Any]) -> Failure:
    near = get_close_matches(field, described["values"], 1)
    return Failure(
        say("{namespace} has no setting {field}.", namespace=namespace, field=repr(field)),
        fix=say("Did you mean {name}?", name=f"{namespace}.{near[0]}")
        if near
        else say("`allod settings {name}` lists them.", name=namespace),
        exit_code=Exit.NOT_FOUND,
    )


def _path(namespace: str) -> str:
    return f"/api/settings/{quote(namespace, safe='')}"
