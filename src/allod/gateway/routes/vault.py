"""The store's locks: unlock, list, add, remove, and a new root key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Literal

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from allod.gateway.errors import as_allod_error, problem
from allod.gateway.routes.sessions import opened
from allod.gateway.streams import EventsResponse
from allod.kernel.house import House
from allod.kernel.keyslots import Slot
from allod.kernel.keysources import PROTECTS
from allod.kernel.vault import Vault

Unlock = Callable[[str], Awaitable[House]]
_BEAT_S = 0.5


class Secret(BaseModel):
    """The body of POST /api/vault/unlock."""

    model_config = ConfigDict(extra="forbid")

    secret: SecretStr = Field(max_length=1000, description="A passphrase or a recovery code.")
    session: bool = Field(default=False, description="Open a session too, for the browser that asks.")


class NewLock(BaseModel):
    """The body of POST /api/vault/slots."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["passphrase", "recovery", "keyring", "keyfile", "credential"] = Field(
        description="What opens it."
    )
    passphrase: SecretStr = Field(
        default=SecretStr(""), max_length=1000, description="For kind passphrase only."
    )


def build_unlock(unlock: Unlock, cookie: Callable[[], str]) -> APIRouter:
    """The one route that a locked server needs."""
    router = APIRouter(prefix="/api/vault", tags=["Kernel"])

    @router.post("/unlock", status_code=201)
    async def unlock_store(body: Secret, request: Request, response: Response) -> dict[str, Any]:
        """Unlock the store with a passphrase or a recovery code. Each wrong one makes the next try wait longer."""
        house = await unlock(body.secret.get_secret_value())
        return {"session": await opened(house, request, response, cookie()) if body.session else None}

    return router


def build(vault: Vault, house: House | None) -> APIRouter:
    """All others; without a house the store is locked."""
    router = APIRouter(prefix="/api/vault", tags=["Kernel"])

    def described(slot: Slot) -> dict[str, Any]:
        return {
            "id": slot.id,
            "kind": slot.kind,
            "created_at": slot.created_at,
            "protects": PROTECTS[slot.kind],
        }

    @router.get("")
    async def state() -> dict[str, Any]:
        """Whether the store is open, its locks, and whether a new machine could open it or a backup of it."""
        return {
            "is_open": vault.is_open,
            "opens_elsewhere": vault.opens_elsewhere,
            "slots": [described(slot) for slot in vault.slots()],
        }

    if house is None:
        return router

    @router.post("/slots", status_code=201)
    async def add_lock(body: NewLock) -> dict[str, Any]:
        """One more lock on the store. A recovery code is shown this once."""
        slot, code = await asyncio.to_thread(vault.add, body.kind, body.passphrase.get_secret_value())
        return {**described(slot), **({"code": code} if code else {})}

    @router.delete("/slots/{slot_id}", status_code=204)
    async def remove_lock(slot_id: str) -> None:
        """Take a lock away, at once; not the last one."""
        await asyncio.to_thread(vault.remove, slot_id)

    @router.post("/rotate", status_code=200, response_class=EventsResponse)
    async def rotate() -> EventsResponse:
        """A new root key: everything is encrypted anew, under the same locks. Progress as server-sent events."""
        return EventsResponse(_rotating(vault, house))

    return router


async def _rotating(vault: Vault, house: House) -> AsyncGenerator[bytes, None]:
    """Goes on to its end also when nobody listens any more."""
    reached = [0.0]
    work = asyncio.ensure_future(
        asyncio.to_thread(vault.change_root, house.database, lambda p: reached.append(p))
    )
    while not work.done():
        await asyncio.wait([work], timeout=_BEAT_S)
        yield _frame({"progress": round(reached[-1], 3)})
    error = work.exception()
    if error is not None:
        yield _frame({"error": {**problem(as_allod_error(error)), "message": as_allod_error(error).message}})
        return
    yield b"data: [DONE]\n\n"


def _frame(value: Any) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"
