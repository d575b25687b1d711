"""How many tokens turns take, by the tokenizer and the template of the model that will read them.

A turn is counted as what it adds before a short question; so whatever a template puts at the beginning and the end
cancels out. The sum of turns is exact for templates that treat each turn alike (ChatML); compose.py asks for the whole
where it matters. Counts are remembered: a turn that has ended never changes, an edited message has another id.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from allod.extensions.conversational.parts import as_openai, in_turn, text_of
from allod.extensions.conversational.records import Message
from allod.sdk.chat import ChatRequest, Purpose
from allod.sdk.chat import Message as ChatMessage
from allod.sdk.context import Context
from allod.sdk.engine import ModelCard

_REMEMBERED = 100_000
_AT_ONCE = 8
_PROBE: ChatMessage = {"role": "user", "content": "x"}


class Counts:
    """Counts tokens, and remembers what it counted; nothing of what is in memory only."""

    def __init__(self, context: Context[Any]) -> None:
        self._context = context
        self._known: OrderedDict[Hashable, int] = OrderedDict()

    def of(self, purpose: Purpose) -> Counting:
        """The same for chats of one kind. Those that leave no trace are counted by their own worker, every time."""
        return Counting(self._context, purpose, self._known if purpose == "chat" else OrderedDict())


class Counting:
    """Counts for one prompt."""

    def __init__(self, context: Context[Any], purpose: Purpose, known: OrderedDict[Hashable, int]) -> None:
        self._context = context
        self._purpose: Purpose = purpose
        self._known = known

    async def whole(self, card: ModelCard, messages: Sequence[ChatMessage]) -> int:
        """Exactly the tokens of a prompt of these messages."""
        request = ChatRequest(model=card.id, messages=list(messages))
        return await self._context.models.count_tokens(request, self._purpose)

    async def system(self, card: ModelCard, system: Sequence[ChatMessage]) -> int:
        """The tokens that system messages add."""
        added = [str(message["content"]) for message in system]
        if not any(added):
            return 0
        key = hashlib.sha256("\0".join(added).encode()).digest()  # not the text: it may be told to go
        return (await self._known_or_counted(card, {key: [*system, _PROBE]}))[0]

    async def turns(self, card: ModelCard, turns: Sequence[Sequence[Message]]) -> list[int]:
        """The tokens that each turn adds."""
        wanted: dict[Hashable, Sequence[ChatMessage]] = {}
        for turn in turns:
            said = [each for message in turn for each in as_openai(message.role, message.parts, {})]
            key = tuple((message.id, len(text_of(message.parts))) for message in turn)
            wanted[key] = in_turn([*said, _PROBE])
        return await self._known_or_counted(card, wanted)

    async def _known_or_counted(
        self, card: ModelCard, wanted: Mapping[Hashable, Sequence[ChatMessage]]
    ) -> list[int]:
        model = (card.id, card.size_bytes, card.quantization)
        missing = [key for key in wanted if (model, key) not in self._known]
        if missing:
            base = await self.whole(card, [_PROBE])
            gate = asyncio.Semaphore(_AT_ONCE)

            async def count(key: Hashable) -> None:
                async with gate:
                    self._known[model, key] = await self.whole(card, wanted[key]) - base

            try:
                async with asyncio.TaskGroup() as group:
                    for key in missing:
                        group.create_task(count(key))
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from None
        found = [self._known[model, key] for key in wanted]
        for key in wanted:
            self._known.move_to_end((model, key))
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return found
