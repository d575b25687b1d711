"""Where a chat's messages come from: a line editor with a history that the server keeps, or plain lines of stdin."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from allod.cli.failures import Failure

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    from allod.cli.client import Client

_HISTORY = "/api/terminal/history"
_HISTORY_TIMEOUT_S = 5


def plain_lines() -> Iterator[str]:
    """Each line of stdin that is not empty."""
    for line in sys.stdin.buffer:
        if text := line.decode("utf-8", "replace").strip("\r\n"):
            yield text


def edited_lines(
    commands: Iterable[str], choices: Mapping[str, Callable[[], list[str]]], keeper: Client | None
) -> Iterator[str]:
    """What the person enters, until Ctrl-D. Tab completes `commands`, and after those in `choices` what may follow.

    What was entered is kept by the server of `keeper`, or, where that is None, in memory and only for this time.
    """
    session = _session(list(commands), choices, keeper)
    while True:
        try:
            text = session.prompt()
        except KeyboardInterrupt:  # Ctrl-C drops what was typed
            continue
        except EOFError:
            return
        if text.strip():
            yield text


@contextlib.contextmanager
def unseen_keys() -> Iterator[None]:
    """Inside, what is typed (and the ^C of Ctrl-C) is not echoed into the answer; the next prompt gets it."""
    try:
        import termios
    except ImportError:  # Windows
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    unseen = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, unseen)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _session(
    commands: list[str], choices: Mapping[str, Callable[[], list[str]]], keeper: Client | None
) -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import InMemoryHistory
    from prompt_toolkit.shortcuts import CompleteStyle

    return PromptSession(
        [("bold ansicyan", "> ")],
        history=InMemoryHistory() if keeper is None else _kept_by(keeper),
        key_bindings=_bindings(),
        completer=_completer(commands, choices),
        complete_while_typing=False,
        complete_style=CompleteStyle.READLINE_LIKE,  # a menu would keep eight empty lines below the prompt
        multiline=True,  # so that a pasted text keeps its lines; Enter sends all the same
        prompt_continuation="  ",
    )


def _kept_by(server: Client) -> History:
    from prompt_toolkit.history import History

    class KeptHistory(History):
        """A server that fails or keeps nothing disturbs nobody: the base class has what was entered in this chat."""

        def load_history_strings(self) -> Iterable[str]:
            try:
                found = server.request("GET", _HISTORY, timeout_s=_HISTORY_TIMEOUT_S)
                return [str(entry["text"]) for entry in reversed(found["history"])]
            except (Failure, LookupError, TypeError):  # no answer, or one of another program
                return []

        def store_string(self, string: str) -> None:
            with contextlib.suppress(Failure):
                server.request("POST", _HISTORY, {"text": string}, timeout_s=_HISTORY_TIMEOUT_S)

    return KeptHistory()


def _bindings() -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings

    bindings = KeyBindings()

    @bindings.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings


def _completer(commands: list[str], choices: Mapping[str, Callable[[], list[str]]]) -> Completer:
    from prompt_toolkit.completion import Completer, Completion

    class SlashCompleter(Completer):
        def get_completions(self, document: Any, complete_event: Any) -> Iterator[Completion]:
            before = document.text_before_cursor
            command, space, rest = before.partition(" ")
            if not before.startswith("/") or "\n" in before:
                return
            typed = rest if space else before
            for choice in choices.get(command, list)() if space else commands:
                if choice.startswith(typed):
                    yield Completion(choice, -len(typed))

    return SlashCompleter()
