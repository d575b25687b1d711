"""`allod threads export` and `import`: conversations as files."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer

from allod.cli.failures import Exit, Failure
from allod.cli.options import Json, Url
from allod.cli.thread_run import thread_path
from allod.cli.words import say

_Format: TypeAlias = Literal["md", "json", "html"]
_ENDINGS: dict[str, _Format] = {".json": "json", ".html": "html", ".htm": "html"}


def export(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[ID] [FILE]", show_default=False, hidden=True)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help=say("All conversations, as JSON."))] = False,
    format: Annotated[
        _Format | None,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            help=say("md, json (whole, for import) or html. Default: by the file's name, else md."),
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help=say("Write over the file if it is there already."))
    ] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Write one, or --all, into a file or to stdout: [ID] [FILE]"""
    from allod.cli.output import show_json
    from allod.cli.server import connect

    thread, file = _meant(words or [], everything=everything)
    if file is not None and (file.is_dir() or (file.exists() and not force)):
        raise Failure(
            say("{path} exists already.", path=repr(str(file))),
            fix=say("Choose another name, or write over it with --force."),
            exit_code=Exit.USAGE,
        )
    usual = "json" if everything else _ENDINGS.get(file.suffix.lower() if file else "", "md")
    query = f"/export?format={format or usual}"
    path = f"/api/conversational{query}" if everything else thread_path(thread, query)
    with connect(url) as client, contextlib.closing(client.download(path)) as pieces:
        if file is None:
            _print(pieces)
            return
        _write(pieces, file)
    if json:
        show_json({"file": str(file), "size_bytes": file.stat().st_size})
    else:
        print(say("Wrote {path}.", path=file))


def _meant(words: list[str], *, everything: bool) -> tuple[str, Path | None]:
    """Which thread, and which file, if there is one. Raises Failure."""
    threads = [] if everything else words[:1]
    files = words[len(threads) :]
    if len(files) > 1 or not (threads or everything):
        raise Failure(
            say("What is to be exported?"),
            fix=say("Write `allod threads export ID [FILE]`, or `allod threads export --all [FILE]`."),
            exit_code=Exit.USAGE,
        )
    return "".join(threads), Path(files[0]) if files else None


def _print(pieces: Generator[bytes]) -> None:
    for piece in pieces:
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def _write(pieces: Generator[bytes], file: Path) -> None:
    """Write a file that only this user can read, and put it in its place once it is whole. Raises Failure."""
    part = file.with_name(f"{file.name}.part")
    try:
        part.unlink(missing_ok=True)
        try:
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
                for piece in pieces:
                    out.write(piece)
            part.replace(file)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise Failure(
            say(
                "{path} cannot be written: {reason}.",
                path=repr(str(error.filename or file)),
                reason=error.strerror or "",
            )
        ) from error


def bring_in(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False, hidden=True)],
    json: Json = False,
    url: Url = None,
) -> None:
    """Take in what was exported as JSON; - reads it from stdin."""
    from allod.cli.output import printable, show_json
    from allod.cli.server import connect

    read = _read(file)
    with connect(url) as client:
        made = client.request("POST", "/api/conversational/import", read, timeout_s=None)
    if json:
        show_json(made)
        return
    print(say("Took in {count}:", count=len(made["threads"])))
    for id in made["threads"]:
        print(printable(id))


def _read(file: Path) -> Any:
    from json import loads

    try:
        return loads(sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes())
    except OSError as error:
        raise Failure(
            say("{path} cannot be read: {reason}.", path=repr(str(file)), reason=error.strerror or ""),
            exit_code=Exit.USAGE,
        ) from error
    except ValueError as error:
        raise Failure(
            say("{path} is not JSON.", path=repr(str(file))),
            fix=say("`allod threads export ID FILE.json` writes such a file."),
            exit_code=Exit.USAGE,
        ) from error
