"""The `allod` command: its subcommands, and the one place where errors become exit codes."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import typer
from typer.core import TyperGroup

from allod.cli.assistants import assistants
from allod.cli.backup import backup, restore
from allod.cli.bench import bench
from allod.cli.chat import chat
from allod.cli.doctor import doctor
from allod.cli.egress import egress
from allod.cli.events import events
from allod.cli.extensions import extensions
from allod.cli.failures import Exit, Failure
from allod.cli.jobs import jobs
from allod.cli.keys import keys
from allod.cli.models import load, models, ps, unload
from allod.cli.options import Json
from allod.cli.run import run
from allod.cli.serve import serve
from allod.cli.sessions import open_browser, sessions
from allod.cli.settings import settings
from allod.cli.system import system
from allod.cli.threads import threads
from allod.cli.vault import vault
from allod.cli.words import say


def version(json: Json = False) -> None:
    """Print the version."""
    from allod import __version__

    if json:
        from allod.cli.output import show_json

        show_json({"version": __version__, "python": sys.version.split()[0], "platform": sys.platform})
    else:
        print(f"allod {__version__}")


_Command: TypeAlias = tuple[str, Any, str]
"""Its name, its function or its own commands, and its help."""

SECTIONS: Sequence[tuple[str, Sequence[_Command]]] = (
    (
        say("Talk"),
        (
            ("chat", chat, say("Talk with a model.")),
            (
                "run",
                run,
                say(
                    "Print the answer to a prompt, and nothing else, on stdout. "
                    "What is piped in comes after the prompt."
                ),
            ),
            (
                "threads",
                threads,
                say("List the conversations, read, search, rename, delete, export or import them."),
            ),
            (
                "assistants",
                assistants,
                say("List the assistants, look at one, make, change or share one, bring a version back."),
            ),
        ),
    ),
    (
        say("Models"),
        (
            ("models", models, say("List the models on this machine, add or remove one.")),
            ("ps", ps, say("Show the models in memory.")),
            ("load", load, say("Load a model into the running server's memory.")),
            ("unload", unload, say("Unload a model once its answers have ended.")),
            ("bench", bench, say("Measure a model: speed by context length, load time, memory.")),
        ),
    ),
    (
        say("Server"),
        (
            ("serve", serve, say("Start the server; Ctrl-C stops it and all that it started.")),
            ("open", open_browser, say("Open the running server in a browser.")),
            ("settings", settings, say("List the settings, of one extension or of all; change one.")),
            ("extensions", extensions, say("List the extensions, look at one, switch it on or off.")),
            ("jobs", jobs, say("List the jobs, look at one, start, pause, resume, cancel or watch it.")),
            ("events", events, say("Show what happens, a line for each event, until Ctrl-C.")),
        ),
    ),
    (
        say("Who may, and what is kept"),
        (
            ("keys", keys, say("List the API keys, make or remove one.")),
            ("sessions", sessions, say("List the browsers that are let in, or end one's session.")),
            ("egress", egress, say("Say what may reach the world and what has; allow, deny, go offline.")),
            ("vault", vault, say("Say what opens the store; unlock it, change its locks or its key.")),
            ("backup", backup, say("Write all that is kept into one sealed file.")),
            (
                "restore",
                restore,
                say("Put what a backup holds in the place of what is here; no server may run."),
            ),
        ),
    ),
    (
        say("This machine"),
        (
            ("doctor", doctor, say("Say what this machine has and what to do about each problem.")),
            (
                "system",
                system,
                say("Say what this machine is, which versions run, what takes how much disk."),
            ),
            ("version", version, say("Print the version.")),
        ),
    ),
)
"""All commands, in the order and under the headings of `allod --help`."""


_COMMANDS = {name: (command, help) for _, commands in SECTIONS for name, command, help in commands}


class _Commands(TyperGroup):
    """All commands, shown in sections. Each is built when it is asked for: to build all would take 10 ms."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return _built(cmd_name) if cmd_name in _COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        self.commands = dict.fromkeys(_COMMANDS, self)  # its keys are what is suggested for a typo
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, _COMMANDS))
        for title, commands in SECTIONS:
            with formatter.section(title):
                formatter.write_dl([(f"{name:{width}}", help) for name, _, help in commands])

    def invoke(self, ctx: Any) -> Any:
        with _told():
            return super().invoke(ctx)


def _built(name: str) -> Any:
    command, help = _COMMANDS[name]
    if not isinstance(command, typer.Typer):
        alone = typer.Typer(rich_markup_mode=None, add_completion=False)
        alone.command(name, help=help)(command)
        return typer.main.get_command(alone)
    group = typer.main.get_command(command)
    group.name, group.help = name, help
    return group


def _app() -> typer.Typer:
    app = typer.Typer(
        cls=_Commands,
        rich_markup_mode=None,
        add_completion=False,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        help=say("A private AI assistant that runs wholly on this machine."),
    )
    app.callback()(lambda: None)
    return app


def main() -> None:
    """Run the command line and leave with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    _app()(prog_name="allod")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Tell each error in a line or two on stderr and leave with its exit code; never a traceback."""
    try:
        yield
        sys.stdout.flush()
    except Failure as failure:
        _tell(failure.detail, failure.fix)
        raise SystemExit(failure.exit_code) from failure
    except KeyboardInterrupt as interrupt:
        raise SystemExit(Exit.INTERRUPTED) from interrupt
    except BrokenPipeError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has no reader
        raise SystemExit(Exit.BROKEN_PIPE) from error
    except Exception as error:
        if type(error).__module__.startswith("typer"):  # usage errors, which typer tells itself
            raise
        _tell(
            say(
                "Something unexpected happened ({error}).",
                error=f"{type(error).__name__}: {error}, {_place(error)}",
            ),
            say("This is a mistake in Allod: please report it."),
        )
        raise SystemExit(Exit.UNEXPECTED) from error


def _tell(detail: str, fix: str) -> None:
    from allod.cli.output import printable

    lines = [say("Error: {detail}", detail=printable(detail)), *([printable(fix)] if fix else [])]
    with contextlib.suppress(OSError):
        print("\n".join(lines), file=sys.stderr, flush=True)


def _place(error: Exception) -> str:
    import traceback

    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{os.path.basename(frame.filename)}:{frame.lineno}"  # noqa: PTH119
