"""`allod vault`: the locks of the store, and its key."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import typer

from allod.cli.client import Client
from allod.cli.failures import Exit, Failure, of_kernel
from allod.cli.options import Json, Url, hand_on
from allod.cli.words import say

vault = typer.Typer(rich_markup_mode=None, add_completion=False)
_Kind: TypeAlias = Literal["passphrase", "recovery", "keyring", "keyfile", "credential"]


@vault.callback(invoke_without_command=True)
def overview(context: typer.Context, json: Json = False, url: Url = None) -> None:
    """Say whether the store is open and what opens it; unlock it, change its locks or its key."""
    hand_on(context, json=json, url=url)
    if context.invoked_subcommand is not None:
        return
    from allod.cli.output import note, show_json
    from allod.cli.server import connect

    with connect(url, own=True) as client:
        state = client.request("GET", "/api/vault")
    if json:
        show_json(state)
        return
    print(say("The store is open.") if state["is_open"] else say("The store is locked."))
    _show(state["slots"])
    if not state["opens_elsewhere"]:
        note(
            say(
                "Only this machine can open it: there is neither a passphrase nor a recovery code. "
                "`allod vault add recovery` makes one."
            )
        )


@vault.command("slots", help=say("List the locks: any one of them opens the store."))
def slots(json: Json = False, url: Url = None) -> None:
    """List the locks: any one of them opens the store."""
    from allod.cli.output import show_json
    from allod.cli.server import connect

    with connect(url, own=True) as client:
        found = client.request("GET", "/api/vault")["slots"]
    if json:
        show_json({"slots": found})
    else:
        _show(found)


def _show(slots: list[dict[str, Any]]) -> None:
    from allod.cli.output import moment, show_table

    rows = [(slot["id"], slot["kind"], moment(slot["created_at"]), slot["protects"]) for slot in slots]
    show_table([say("ID"), say("KIND"), say("CREATED"), say("PROTECTS")], rows)


@vault.command("unlock", help=say("Open the running server's store by passphrase or recovery code."))
def unlock(json: Json = False, url: Url = None) -> None:
    """Open the running server's store by passphrase or recovery code."""
    from allod.cli.asking import secret
    from allod.cli.output import show_json
    from allod.cli.server import connect

    with connect(url, start=False, own=True) as client:
        was_open = _is_open(client)
        if not was_open:
            given = secret(say("Passphrase or recovery code: "))
            client.request("POST", "/api/vault/unlock", {"secret": given}, timeout_s=None)
    if json:
        show_json({"is_open": True, "was_open": was_open})
    else:
        print(say("The store was open already.") if was_open else say("The store is open."))


def _is_open(client: Client) -> bool:
    """Whether there is nothing to unlock; False where this caller may not know."""
    try:
        return bool(client.request("GET", "/api/vault")["is_open"])
    except Failure as failure:
        if failure.exit_code is not Exit.NOT_ALLOWED:
            raise
        return False


@vault.command("add", help=say("Add a lock: passphrase, recovery, keyring, keyfile or credential."))
def add(
    kind: Annotated[_Kind, typer.Argument(metavar="KIND", show_default=False, hidden=True)],
    json: Json = False,
    url: Url = None,
) -> None:
    """Add a lock: passphrase, recovery, keyring, keyfile or credential."""
    from allod.cli.asking import new_passphrase
    from allod.cli.output import note, show_json
    from allod.cli.server import connect

    with connect(url, own=True) as client:
        wanted: dict[str, str] = {"kind": kind}
        if kind == "passphrase":
            client.request("GET", "/api/vault")  # it may be refused before somebody thinks of a passphrase
            wanted["passphrase"] = new_passphrase()
        slot = client.request("POST", "/api/vault/slots", wanted, timeout_s=60)
    if json:
        show_json(slot)
    elif kind == "recovery":
        print(slot["code"])
        note(say("Print this recovery code and keep it where you keep papers. It is not shown again."))
    else:
        print(say("Added the lock {slot}.", slot=slot["id"]), slot["protects"])


@vault.command("remove", help=say("Take a lock away, at once; not the last one."))
def remove(
    slot: Annotated[str, typer.Argument(metavar="ID", show_default=False, hidden=True)],
    json: Json = False,
    url: Url = None,
) -> None:
    """Take a lock away, at once; not the last one."""
    from urllib.parse import quote

    from allod.cli.output import show_json
    from allod.cli.server import connect

    with connect(url, own=True) as client:
        client.request("DELETE", f"/api/vault/slots/{quote(slot, safe='')}")
    if json:
        show_json({"removed": slot})
    else:
        print(say("Removed the lock {slot}.", slot=slot))


@vault.command("rotate", help=say("Change the root key: everything is encrypted anew, all locks stay."))
def rotate(
    yes: Annotated[bool, typer.Option("--yes", "-y", help=say("Do not ask."))] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Change the root key: everything is encrypted anew, all locks stay."""
    from allod.cli.asking import confirm
    from allod.cli.bar import bar
    from allod.cli.output import show_json
    from allod.cli.server import connect

    with connect(url, own=True) as client:
        client.request("GET", "/api/vault")
        if not yes:
            confirm(say("Encrypt everything that is kept anew? Others wait meanwhile. [y/N]"))
        with bar() as show_bar:
            for event in client.stream("/api/vault/rotate", None):
                show_bar(say("encrypting anew"), float(event["progress"]))
    if json:
        show_json({"rotated": True})
    else:
        print(say("Everything is encrypted under a new key. All locks stay."))


@vault.command("init", help=say("Before the first start: make a store that only a passphrase opens."))
def init(json: Json = False) -> None:
    """Before the first start: make a store that only a passphrase opens."""
    from allod.cli.asking import new_passphrase
    from allod.cli.output import note, show_json
    from allod.kernel.paths import Paths, data_folder
    from allod.sdk.errors import AllodError

    if Paths(data_folder()).key_slots.exists():
        raise Failure(
            say("This data folder has a key already."),
            fix=say("`allod vault slots` lists its locks, `allod vault add passphrase` adds one."),
            exit_code=Exit.BAD_REQUEST,
        )
    passphrase = new_passphrase()
    from allod.app import create_store

    try:
        create_store(passphrase)
    except AllodError as error:
        raise of_kernel(error) from error
    if json:
        show_json({"data_folder": str(data_folder())})
        return
    print(say("Made the key of {folder}. Each start waits for the passphrase.", folder=data_folder()))
    note(
        say(
            "Whoever forgets it loses everything: once a server runs, "
            "`allod vault add recovery` makes a code to be printed."
        )
    )
