"""`allod threads`: the conversations that are kept: list, read, search, rename, throw away and bring back."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import typer

from allod.cli.failures import Exit, Failure
from allod.cli.options import Json, Url, hand_on
from allod.cli.thread_files import bring_in, export
from allod.cli.thread_run import THREADS, thread_path
from allod.cli.thread_search import search
from allod.cli.words import say

threads = typer.Typer(rich_markup_mode=None, add_completion=False)
_Id: TypeAlias = Annotated[str, typer.Argument(metavar="ID", show_default=False, hidden=True)]
_Ids: TypeAlias = Annotated[list[str], typer.Argument(metavar="ID", show_default=False, hidden=True)]
_FIRST_WORDS = 60


@threads.callback(invoke_without_command=True)
def overview(context: typer.Context, json: Json = False, url: Url = None) -> None:
    """List the conversations, read, search, rename, delete, export or import them."""
    hand_on(context, json=json, url=url)
    if context.invoked_subcommand is None:
        list_threads(json=json, url=url)


@threads.command("list", help=say("List them, the last changed first."))
def list_threads(
    archive: Annotated[bool, typer.Option("--archive", help=say("Those put away."))] = False,
    trash: Annotated[bool, typer.Option("--trash", help=say("Those in the trash."))] = False,
    project: Annotated[
        str | None, typer.Option("--project", metavar="NAME", help=say("Of this project only."))
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", metavar="TAG", help=say("With this tag only."))] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1000, metavar="N", help=say("At most so many."))
    ] = 50,
    json: Json = False,
    url: Url = None,
) -> None:
    """List them, the last changed first."""
    from urllib.parse import urlencode

    from allod.cli.output import note, show_json
    from allod.cli.server import connect

    if archive and trash:
        raise Failure(say("A conversation is in the archive or in the trash."), exit_code=Exit.USAGE)
    place = "archive" if archive else "trash" if trash else "open"
    wanted: dict[str, Any] = {"place": place, "limit": limit, **({"tag": tag} if tag else {})}
    with connect(url) as client:
        if project:
            wanted["project"] = project_id(client, project)
        found = client.request("GET", f"{THREADS}?{urlencode(wanted)}")
        if json:
            show_json(found)
            return
        titles = [_title(thread) for thread in found["threads"]]
    if not found["threads"]:
        note(say("There is no such conversation. `allod chat` begins one."))
        return
    _show_table(found["threads"], titles)
    if found["next"]:
        note(say("There are more: --limit {count} shows them.", count=min(1000, 4 * limit)))


def _show_table(found: list[dict[str, Any]], titles: list[str]) -> None:
    from allod.cli.output import moment, show_table

    heads = [say("ID"), say("TITLE"), say("MESSAGES"), say("CHANGED"), say("MARKS")]
    rows = [
        (thread["id"], title, str(thread["messages"]), moment(thread["changed_at"]), _marks(thread))
        for thread, title in zip(found, titles, strict=True)
    ]
    show_table(heads, rows, right=[2])


def _marks(thread: dict[str, Any]) -> str:
    marks = [
        say("favourite") if thread["is_favourite"] else "",
        say("is being answered") if thread.get("run") else "",
        say("memory-only") if thread["is_memory_only"] else "",
        *(f"#{tag}" for tag in thread["tags"]),
    ]
    return ", ".join(mark for mark in marks if mark)


def _title(thread: dict[str, Any]) -> str:
    """The title, or the first words where there is none yet."""
    words = str(thread["title"]) or " ".join(thread["opening"].split())
    return words if len(words) <= _FIRST_WORDS else f"{words[:_FIRST_WORDS].rstrip()}…"


def project_id(client: Any, project: str) -> str:
    """The id of a project that is named by it or by its name. Raises Failure."""
    projects = client.request("GET", "/api/conversational/projects")["projects"]
    for each in projects:
        if project == each["id"] or project.casefold() == each["name"].casefold():
            return str(each["id"])
    raise Failure(
        say("There is no project {name}.", name=repr(project)),
        fix=say("Known are: {names}", names=", ".join(each["name"] for each in projects)) if projects else "",
        exit_code=Exit.NOT_FOUND,
    )


@threads.command("show", help=say("Show the end of one, or all of it."))
def show(
    thread: _Id,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1000, metavar="N", help=say("At most so many."))
    ] = 20,
    before: Annotated[
        str | None, typer.Option("--before", metavar="MESSAGE", help=say("Those before this message."))
    ] = None,
    whole: Annotated[bool, typer.Option("--all", help=say("All messages of the branch."))] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Show the end of one, or all of it."""
    from allod.cli.messages import show_message
    from allod.cli.output import note, show_json
    from allod.cli.server import connect

    with connect(url) as client:
        opened = client.request("GET", thread_path(thread, "?limit=1"))
        messages, has_more = _read(client, thread, None if whole else limit, before)
    if json:
        show_json({**opened, "messages": messages, "has_more": has_more})
        return
    _show_title(opened["thread"])
    for message in messages:
        show_message(message)
    if has_more:
        note(say("There is more before: --before {message}, or --all.", message=messages[0]["id"]))


def _read(
    client: Any, thread: str, limit: int | None, before: str | None
) -> tuple[list[dict[str, Any]], bool]:
    """Messages of the active branch, oldest first, and whether there are some before them; None: all."""
    from urllib.parse import urlencode

    messages: list[dict[str, Any]] = []
    while True:
        query = urlencode({"limit": limit or 1000, **({"before": before} if before else {})})
        page = client.request("GET", thread_path(thread, f"/messages?{query}"))
        messages = page["messages"] + messages
        if limit is not None or not page["has_more"]:
            return messages, bool(page["has_more"])
        before = messages[0]["id"]


def _show_title(thread: dict[str, Any]) -> None:
    import sys

    from allod.cli.output import tell

    title = thread["title"] or say("Without a title")
    if sys.stdout.isatty():
        tell(f"{title} · {thread['id']}\n")
    else:
        print(f"# {title}\n", flush=True)


threads.command("search", help=say("Find words in all conversations: WORD…"))(search)


@threads.command("rename", help=say('Give one another title: ID TITLE ("": found by the model again)'))
def rename(
    thread: _Id,
    title: Annotated[str, typer.Argument(metavar="TITLE", show_default=False, hidden=True)],
    json: Json = False,
    url: Url = None,
) -> None:
    """Give one another title: ID TITLE ("": found by the model again)"""
    from allod.cli.server import connect

    with connect(url) as client:
        changed = client.request("PATCH", thread_path(thread), {"title": title})
    _tell(say("{thread} is called {title} now.", thread=changed["id"], title=repr(title)), changed, json)


@threads.command("delete", help=say("Put some into the trash, or delete them for good: ID…"))
def delete(
    ids: _Ids,
    forever: Annotated[
        bool, typer.Option("--forever", help=say("At once and for good, not into the trash."))
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help=say("Do not ask."))] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Put some into the trash, or delete them for good: ID…"""
    from allod.cli.asking import confirm
    from allod.cli.output import printable, show_json
    from allod.cli.server import connect

    with connect(url) as client:
        found = [client.request("GET", thread_path(id, "?limit=1"))["thread"] for id in ids]
        for_good = [each for each in found if forever or each["is_memory_only"]]
        if for_good and not yes:
            confirm(say("Delete {count} for good? [y/N]", count=len(for_good)))
        for each in found:
            client.request(
                "DELETE", thread_path(each["id"], "?forever=true" if forever else ""), timeout_s=60
            )
    gone = [each["id"] for each in for_good]
    trashed = [each["id"] for each in found if each["id"] not in gone]
    if json:
        show_json({"deleted": gone, "trashed": trashed})
        return
    for id in gone:
        print(printable(say("Deleted {thread} for good.", thread=id)))
    for id in trashed:
        print(
            printable(
                say("{thread} is in the trash. `allod threads restore {thread}` brings it back.", thread=id)
            )
        )


@threads.command("restore", help=say("Take some out of the trash: ID…"))
def restore(ids: _Ids, json: Json = False, url: Url = None) -> None:
    """Take some out of the trash: ID…"""
    from allod.cli.server import connect

    with connect(url) as client:
        for id in ids:
            client.request("POST", thread_path(id, "/restore"))
    _tell(say("Brought back: {threads}", threads=", ".join(ids)), {"restored": ids}, json)


threads.command("export", help=say("Write one, or --all, into a file or to stdout: [ID] [FILE]"))(export)
threads.command("import", help=say("Take in what was exported as JSON; - reads it from stdin."))(bring_in)


def _tell(text: str, result: dict[str, Any], json: bool) -> None:
    from allod.cli.output import printable, show_json

    if json:
        show_json(result)
    else:
        print(printable(text))
