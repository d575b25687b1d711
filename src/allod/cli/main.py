"""The `allod` command: its subcommands, and the one place where errors become exit codes."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from allod.cli.bench import bench
from allod.cli.chat import chat
from allod.cli.doctor import doctor
from allod.cli.failures import Exit, Failure
from allod.cli.keys import keys
from allod.cli.models import load, models, ps, unload
from allod.cli.options import Json
from allod.cli.run import run
from allod.cli.serve import serve
from allod.cli.system import system
from allod.cli.words import say

_ORDER = "serve chat run models ps load unload keys doctor system bench version".split()


class _Commands(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return _ORDER

    def invoke(self, ctx: Any) -> Any:
        with _told():
            return super().invoke(ctx)


def version(json: Json = False) -> None:
    """Print the version."""
    from allod import __version__

    if json:
        from allod.cli.output import show_json

        show_json({"version": __version__, "python": sys.version.split()[0], "platform": sys.platform})
    else:
        print(f"allod {__version__}")


def _app() -> typer.Typer:
    app = typer.Typer(
        cls=_Commands,
        rich_markup_mode=None,
        add_completion=False,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        help=say("A private AI assistant that runs wholly on this machine."),
    )
    app.command(help=say("Start the server; Ctrl-C stops it and all that it started."))(serve)
    app.command(help=say("Talk with a model."))(chat)
    app.command(
        help=say(
            "Print the answer to a prompt, and nothing else, on stdout. What is piped in comes after the prompt."
        )
    )(run)
    app.add_typer(models, name="models", help=say("List the models on this machine, add or remove one."))
    app.command(help=say("Show the models in memory."))(ps)
    app.command(help=say("Load a model into the running server's memory."))(load)
    app.command(help=say("Unload a model once its answers have ended."))(unload)
    app.add_typer(keys, name="keys", help=say("List the API keys, make or remove one."))
    app.command(help=say("Say what this machine has and what to do about each problem."))(doctor)
    app.add_typer(
        system,
        name="system",
        help=say("Say what this machine is, which versions run, what takes how much disk."),
    )
    app.command(help=say("Measure a model: speed by context length, load time, memory."))(bench)
    app.command(help=say("Print the version."))(version)
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
