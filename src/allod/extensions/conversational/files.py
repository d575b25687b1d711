"""What a model is given of attached files: texts as they stand, images where it can see, of all others the name."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

from allod.extensions.conversational.media import IMAGES, reads_as_text
from allod.extensions.conversational.parts import File, Image, Part, Text
from allod.extensions.conversational.records import Attachment, Message
from allod.extensions.conversational.rows import Archive, Rows
from allod.sdk.chat import Message as ChatMessage
from allod.sdk.engine import ModelCard
from allod.sdk.errors import NotFound, StoreDamaged

MOST_TEXT_BYTES = 100_000
"""Longer texts are told by name: they would leave no room for the conversation."""
MOST_IMAGE_BYTES = 48 << 20
"""In one prompt, of the newest images. In base64 it is a third more."""
IMAGE_TOKENS = 1024
"""What an image is taken to need. What it really does hangs on its size, and only a loaded model can say."""


class Files:
    """The files of one prompt. Each is read once."""

    def __init__(self, archive: Archive, thread: str, card: ModelCard) -> None:
        self._archive = archive
        self._thread = thread
        self._sees = "vision" in card.capabilities
        self._texts: dict[str, str] = {}
        self._read_in: dict[str, list[str]] = {}
        self._images: dict[str, str] = {}

    async def opened(self, turns: Sequence[Sequence[Message]]) -> list[list[Message]]:
        """The turns, with the content of text files in their place."""
        parts = (part for turn in turns for message in turn for part in message.parts)
        named = {part.blob for part in parts if isinstance(part, File)}
        for attachment, data in await self._read(named - self._texts.keys(), _is_short_text):
            try:
                self._texts[attachment.blob] = data.decode("utf-8-sig")
            except UnicodeDecodeError:
                continue  # only its beginning was text
        return [[self._with_texts(message) for message in turn] for turn in turns]

    def _with_texts(self, message: Message) -> Message:
        read = [part.blob for part in message.parts if isinstance(part, File) and part.blob in self._texts]
        if not read:
            return message
        self._read_in[message.id] = read
        parts: list[Part] = []
        for (
            part
        ) in message.parts:  # texts that follow each other are one text, so there is a line between them
            is_apart = bool(parts) and isinstance(parts[-1], Text)
            if isinstance(part, File) and part.blob in self._texts:
                content = f"[file: {part.name}]\n{self._texts[part.blob].strip()}"
                parts.append(Text(text="\n\n" * is_apart + content + "\n\n"))
            else:
                parts.append(part)
        if isinstance(parts[-1], Text):
            parts[-1] = Text(text=parts[-1].text.rstrip())
        return replace(message, parts=tuple(parts))

    def image_tokens(self, messages: Iterable[Message]) -> int:
        """About how many tokens their images take."""
        return (
            IMAGE_TOKENS
            * sum(isinstance(part, Image) for each in messages for part in each.parts)
            * self._sees
        )

    async def images(self, messages: Sequence[Message]) -> dict[str, str]:
        """data: URLs (RFC 2397) of the images that a model which sees is shown, by their blobs: the newest ones."""
        if not self._sees:
            return {}
        named = [part for message in messages for part in message.parts if isinstance(part, Image)]
        left, wanted = MOST_IMAGE_BYTES, set[str]()
        for part in reversed(named):
            if part.blob not in wanted and (left := left - part.bytes) >= 0:
                wanted.add(part.blob)
        for attachment, data in await self._read(wanted - self._images.keys(), _is_image):
            coded = await asyncio.to_thread(base64.b64encode, data)
            self._images[attachment.blob] = f"data:{attachment.media_type};base64,{coded.decode()}"
        self._images = {blob: url for blob, url in self._images.items() if blob in wanted}
        return self._images

    def noted(self, messages: Iterable[str]) -> dict[str, list[str]]:
        """For the record: of which files these messages, by their ids, told more than the name."""
        texts = {blob for id in messages for blob in self._read_in.get(id, ())}
        return {"texts": sorted(texts), "images": sorted(self._images)}

    async def _read(
        self, blobs: set[str], is_wanted: Callable[[Attachment], bool]
    ) -> list[tuple[Attachment, bytes]]:
        """Those of these files that can be read. One that is damaged is told by name; the log says it."""
        if not blobs:
            return []

        def rows_of(rows: Rows) -> list[Attachment]:
            return [each for each in rows.attachments(self._thread) if each.blob in blobs and is_wanted(each)]

        found = []
        for each in await self._archive.read(rows_of):
            with suppress(NotFound, StoreDamaged):
                found.append((each, await self._archive.bytes_of(each)))
        return found


def without_images(messages: Iterable[ChatMessage]) -> list[ChatMessage]:
    """The messages in OpenAI's form, for counting: with all but their images."""
    return [
        {**message, "content": "\n\n".join(part["text"] for part in content if part["type"] == "text")}
        if isinstance(content := message.get("content"), list)
        else message
        for message in messages
    ]


def _is_short_text(attachment: Attachment) -> bool:
    return attachment.size_bytes <= MOST_TEXT_BYTES and reads_as_text(attachment.media_type)


def _is_image(attachment: Attachment) -> bool:
    return attachment.media_type in IMAGES
