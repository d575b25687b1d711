"""`allod serve`: the server itself, the only command that is no client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from allod.cli.failures import Exit, Failure
from allod.cli.options import Json
from allod.cli.words import say

_EXAMPLE = (
    "curl {url}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
    '       -d \'{{"model": "jan", "messages": [{{"role": "user", "content": "{hello}"}}], "stream": true}}\''
)


def serve(
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host", metavar="ADDRESS", help=say("Listen here; may be repeated. Default: this machine only.")
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", min=0, max=65535, metavar="N", help=say("Default: 1337, or ALLOD_PORT. 0: any.")
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", metavar="PATH", help=say("A GGUF file to serve as the default model.")),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option("--tls-cert", metavar="FILE", help=say("Certificate chain (PEM), for https.")),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option("--tls-key", metavar="FILE", help=say("The certificate's private key (PEM).")),
    ] = None,
    builtin_only: Annotated[
        bool, typer.Option("--builtin-only", help=say("Safe mode: start Allod's own extensions only."))
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help=say("Log warnings only."))] = False,
    stop_with_stdin: Annotated[bool, typer.Option("--stop-with-stdin", hidden=True)] = False,
    json: Json = False,
) -> None:
    """Start the server; Ctrl-C stops it and all that it started."""
    from allod.app import ServeOptions
    from allod.app import serve as run_server
    from allod.sdk.errors import AllodError

    options = ServeOptions(
        hosts=host or None,
        port=port,
        model=model,
        tls_cert=tls_cert,
        tls_key=tls_key,
        builtin_only=builtin_only,
        stop_with_stdin=stop_with_stdin,
        quiet=quiet,
        announce=_announcer(json=json, quiet=quiet),
    )
    try:
        raise SystemExit(run_server(options))
    except AllodError as error:
        raise Failure(error.detail, fix=error.fix, exit_code=Exit.UNREACHABLE) from error


def _announcer(*, json: bool, quiet: bool) -> Callable[[Sequence[str], bool], None] | None:
    import os

    from allod import __version__
    from allod.cli.output import show_json

    def in_json(urls: Sequence[str], is_open: bool) -> None:
        said = {"pid": os.getpid(), "urls": list(urls), "version": __version__, "locked": not is_open}
        show_json(said, one_line=True)

    def in_words(urls: Sequence[str], is_open: bool) -> None:
        named = {"version": __version__, "urls": " ".join(urls)}
        print(say("Allod {version} answers at {urls}. Ctrl-C stops it.", **named))
        if is_open:
            print(say("Try it:"), "\n  ", _EXAMPLE.format(url=urls[0], hello=say("Hello!")), flush=True)
        else:
            said = say(
                "The store is locked: run `allod vault unlock`, or open {url} in a browser.", url=urls[0]
            )
            print(said, flush=True)

    if json:
        return in_json
    return None if quiet else in_words
