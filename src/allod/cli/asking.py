"""What a command asks a person: secrets, hidden while they are typed, and whether to go on."""

from __future__ import annotations

import sys

from allod.cli.failures import Exit, Failure
from allod.cli.words import say


def secret(prompt: str) -> str:
    """A secret: typed at a terminal, else the first line of what is piped in. Raises Failure where there is none."""
    given = _typed(prompt) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    if not given:
        raise Failure(
            say("Nothing was given."), fix=say("Type it when asked, or pipe it in."), exit_code=Exit.USAGE
        )
    return given


def new_passphrase() -> str:
    """A new passphrase; at a terminal it is asked for twice. Raises Failure where the two are not the same."""
    given = secret(say("New passphrase: "))
    if sys.stdin.isatty() and _typed(say("Once more: ")) != given:
        raise Failure(
            say("These were two different passphrases."),
            fix=say("Nothing was changed. Try again."),
            exit_code=Exit.USAGE,
        )
    return given


def confirm(question: str) -> None:
    """Go on where a person says y, or where no person is at the terminal. Raises Failure."""
    if not sys.stdin.isatty():
        return
    print(question, end=" ", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().casefold() not in ("y", "yes", "是"):
        raise Failure(say("Nothing was changed."))


def _typed(prompt: str) -> str:
    from getpass import getpass

    try:
        return getpass(prompt)
    except EOFError:
        return ""
