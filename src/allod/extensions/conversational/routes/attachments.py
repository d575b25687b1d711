"""Files of a thread: sent before the message that names them, looked at, taken back."""

from __future__ import annotations

from email.message import Message as Headers
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Header, Request, Response

from allod.extensions.conversational.attachments import as_part, attach, detach, opened
from allod.extensions.conversational.media import IMAGES
from allod.sdk.errors import BadRequest, BodyTooLarge

if TYPE_CHECKING:
    from allod.extensions.conversational.extension import Rooms
    from allod.extensions.conversational.records import Attachment

_MIB = 1 << 20
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_UNTRUSTED = {"content-security-policy": "sandbox; default-src 'none'", "cache-control": "no-store"}
"""What is sent back was somebody's: no browser is to run any of it."""


def build(rooms: Rooms) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/threads/{thread}/attachments")
    shelf = rooms.shelf

    @router.post("", status_code=201, openapi_extra=_BODY)
    async def attach_file(
        thread: str,
        request: Request,
        content_disposition: Annotated[
            str, Header(description="Its name: attachment; filename*=UTF-8''my%20report.pdf (RFC 6266).")
        ] = "",
    ) -> dict[str, Any]:
        """Keep a file with a thread. The body is the file; the answer is a part for the `input` of a run.

        Content-Type is its media type, or application/octet-stream: then it is found out. What is an image, and what
        a text, is seen from its bytes in any case.
        """
        rooms.idle.disturb()
        data = await request.body()
        limit = rooms.context.settings.attachment_mib
        if len(data) > limit * _MIB:
            raise BodyTooLarge(
                f"The file is larger than {limit} MiB.",
                fix="Send a smaller one, or raise conversational.attachment_mib.",
            )
        if not data:
            raise BadRequest("The file is empty.", fix="Send its bytes as the body.")
        name = _name_in(content_disposition)
        kind = request.headers.get("content-type", "")
        return _shown(await attach(shelf.of(thread), thread, name, kind, data))

    @router.get("")
    async def list_attachments(thread: str) -> dict[str, Any]:
        """All files of a thread, oldest first, also those that no message names yet."""
        found = await shelf.of(thread).read(lambda rows: rows.attachments(thread))
        return {"attachments": [{**_shown(each), "created_at": each.created_at} for each in found]}

    @router.get("/{blob}", response_class=Response)
    async def get_attachment(thread: str, blob: str) -> Response:
        """The bytes of a file. PNG, JPEG, WebP and GIF may be shown where they are; all else is a download."""
        found, data = await opened(shelf.of(thread), thread, blob)
        is_image = found.media_type in IMAGES
        place = f"{'inline' if is_image else 'attachment'}; filename*=UTF-8''{_encoded(found.name)}"
        return Response(
            data,
            media_type=found.media_type if is_image else "application/octet-stream",
            headers={**_UNTRUSTED, "content-disposition": place},
        )

    @router.delete("/{blob}", status_code=204)
    async def delete_attachment(thread: str, blob: str) -> None:
        """Take back a file that no message names. Those that are named go with their messages."""
        await detach(shelf.of(thread), thread, blob)
        rooms.eraser.wanted.set()

    return router


def _shown(attachment: Attachment) -> dict[str, Any]:
    return as_part(attachment).model_dump(mode="json")


def _name_in(content_disposition: str) -> str:
    """The name that the header says, in either of its forms; empty where it says none."""
    headers = Headers()
    headers["content-disposition"] = content_disposition
    return headers.get_filename("")


def _encoded(name: str) -> str:
    """A name as RFC 8187 has it in a header: bytes of UTF-8, percent-encoded but for letters and digits."""
    return "".join(
        chr(byte) if chr(byte).isalnum() and byte < 128 else f"%{byte:02X}" for byte in name.encode()
    )
