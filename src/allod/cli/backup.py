"""`allod backup` and `allod restore`: all that is kept into one sealed file, and back again, without a server."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from allod.cli.failures import Exit, Failure, from_answer
from allod.cli.options import Json, Url
from allod.cli.words import say
from allod.sdk.errors import AllodError

if TYPE_CHECKING:
    from allod.kernel.backup import BackupFile

File: TypeAlias = Annotated[Path, typer.Argument(metavar="FILE", show_default=False, hidden=True)]


def backup(
    file: File,
    force: Annotated[
        bool, typer.Option("--force", help=say("Write over the file if it is there already."))
    ] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Write all that is kept into one sealed file."""
    from allod.cli.output import note, show_json, size
    from allod.cli.server import connect

    if file.is_dir() or (file.exists() and not force):
        raise Failure(
            say("{path} exists already.", path=repr(str(file))),
            fix=say("Choose another name, or write over it with --force."),
            exit_code=Exit.USAGE,
        )
    with connect(url) as client:
        made = _keep(client.download("/api/backup"), file)
    size_bytes = file.stat().st_size
    if json:
        show_json({"file": str(file), "size_bytes": size_bytes, "opens_elsewhere": made.opens_elsewhere})
        return
    print(say("Wrote {path}, {size}.", path=file, size=size(size_bytes)))
    if not made.opens_elsewhere:
        note(
            say(
                "Only this machine can open it: there is neither a passphrase nor a recovery code. "
                "`allod vault add recovery` makes one; then make a new backup."
            )
        )


def _keep(pieces: Generator[bytes], file: Path) -> BackupFile:
    """Write the pieces beside `file`, look whether they are a whole backup, and put it in its place."""
    from allod.kernel.backup import open_backup
    from allod.kernel.paths import new_file

    part = file.with_name(f"{file.name}.part")
    with contextlib.closing(pieces), _told(file):
        part.unlink(missing_ok=True)
        try:
            with new_file(part) as out:
                for piece in pieces:
                    out.write(piece)
            made = open_backup(part)
            part.replace(file)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    return made


def restore(file: File, json: Json = False) -> None:
    """Put what a backup holds in the place of what is here; that is moved aside. No server may run."""
    from allod.app import restore as put_back
    from allod.cli.output import note, show_json

    with _told(file):
        done = put_back(file, _ask)
    if json:
        show_json(done)
        return
    made_at = time.strftime("%Y-%m-%d %H:%M", time.localtime(done["created_at"]))
    print(say("Restored what was kept at {time}.", time=made_at))
    if done["moved_to"]:
        note(say("What was here before is in {folder}; nothing was deleted.", folder=done["moved_to"]))


def _ask(kinds: Sequence[str]) -> str:
    """A secret of one of `kinds`: hidden while it is typed, or the first line of what is piped in."""
    if not sys.stdin.isatty():
        given = sys.stdin.readline().rstrip("\r\n")
    else:
        from getpass import getpass

        both = "passphrase" in kinds and "recovery" in kinds
        alone = say("Recovery code: ") if "recovery" in kinds else say("Passphrase: ")
        given = getpass(say("Passphrase or recovery code: ") if both else alone)
    if not given:
        raise Failure(
            say("This backup needs its passphrase or a recovery code."),
            fix=say("Type it when asked, or pipe it in."),
            exit_code=Exit.NOT_ALLOWED,
        )
    return given


@contextlib.contextmanager
def _told(file: Path) -> Iterator[None]:
    """Errors of the kernel and of the disk as failures of the command."""
    try:
        yield
    except AllodError as error:
        failure = from_answer(error.status, {"detail": error.detail})
        failure.fix = error.fix  # an API key, which the client's 401 speaks of, would not help here
        raise failure from error
    except OSError as error:
        raise Failure(
            say(
                "{path} cannot be written: {reason}.",
                path=repr(str(error.filename or file)),
                reason=error.strerror or "",
            )
        ) from error
