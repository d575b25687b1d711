"""Sessions of browsers: the token that opens one, the list, and their end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from allod.gateway.door_file import DoorFile
from allod.kernel.house import House
from allod.kernel.sessions import LASTS_S, TOKEN_S, Session
from allod.sdk.errors import Unauthorized


class Token(BaseModel):
    """The body of POST /api/sessions/open."""

    model_config = ConfigDict(extra="forbid")

    token: str = Field(max_length=200, description="As it stood in the address's fragment.")


def build(house: House, door_file: DoorFile, cookie: Callable[[], str]) -> APIRouter:
    """The routes. `cookie` is the name of the session's cookie."""
    router = APIRouter(prefix="/api/sessions", tags=["Kernel"])

    def described(session: Session) -> dict[str, Any]:
        return {
            "id": session.id,
            "label": session.label,
            "created_at": session.created_at,
            "last_used_at": session.last_used_at,
            "expires_at": session.expires_at,
        }

    @router.get("")
    async def list_sessions() -> dict[str, Any]:
        """All sessions that have not ended."""
        return {"sessions": [described(session) for session in house.sessions.all()]}

    @router.post("/tokens", status_code=201)
    async def new_token() -> dict[str, Any]:
        """A file of this user's own that leads a browser here; it opens one session, once, within 60 s."""
        token = house.sessions.new_token()
        return {"file": await door_file.write(token), "url": door_file.url, "expires_in_s": TOKEN_S}

    @router.post("/open", status_code=201)
    async def open_session(body: Token, request: Request, response: Response) -> dict[str, Any]:
        """Open a session with a token: one half comes as a cookie, the other in the answer."""
        if not house.sessions.take_token(body.token):
            raise Unauthorized("This token was used, or is older than 60 s.", fix="Run `allod open` again.")
        await door_file.remove(body.token)
        return await opened(house, request, response, cookie())

    @router.delete("/{session_id}", status_code=204)
    async def end_session(session_id: str, request: Request) -> None:
        """End a session, at once; `current` is the one that asks."""
        asking = request.scope["allod.caller"].key_id
        await house.sessions.end(str(asking) if session_id == "current" else session_id)

    return router


async def opened(house: House, request: Request, response: Response, cookie: str) -> dict[str, Any]:
    """A new session for the browser that asks, its cookie set."""
    session, cookie_half, header_half = await house.sessions.open(
        request.headers.get("user-agent", "a browser")
    )
    response.set_cookie(
        cookie,
        cookie_half,
        max_age=LASTS_S,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return {"id": session.id, "header": header_half, "expires_at": session.expires_at}
