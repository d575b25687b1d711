"""The COMPOSE stage: from a thread's tree and its assistant to the messages that the model is told, within its context.

What was told is noted, by ids and numbers: nothing is left out in silence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

from allod.extensions.conversational.assistants import instructions_of
from allod.extensions.conversational.counting import Counts
from allod.extensions.conversational.files import Files, without_images
from allod.extensions.conversational.parts import as_openai, in_turn, text_of
from allod.extensions.conversational.policy import Trimmed, Turn, trim
from allod.extensions.conversational.recall import Passage, Said, recalled
from allod.extensions.conversational.records import Message, Thread
from allod.extensions.conversational.rows import Archive, Rows
from allod.sdk.chat import ChatRequest, Purpose, Run
from allod.sdk.chat import Message as ChatMessage
from allod.sdk.context import Context
from allod.sdk.engine import ModelCard
from allod.sdk.errors import ContextTooLong
from allod.sdk.services import Assistant
from allod.sdk.stage import Phase, Stage

_FIRST_LOOK = 64
_ANSWER_TOKENS = 1024
_EXACT_FROM = 0.9
_RECALL_TOKENS = 1500
_RECALL_MESSAGES = 2000
_SUMMARY = "What was said before, in short: {summary}\n\n{text}"
_RECALLED = "{text}\n\n(Said earlier in this conversation:\n{passages})"


@dataclass(slots=True)
class Draft:
    """An answer that is to be written, and what composing found: `seen` for the record, the cut for the next time."""

    archive: Archive
    thread: Thread
    answer: Message
    assistant: Assistant
    seen: dict[str, Any] = field(default_factory=dict)
    kept_from: str | None = None

    @property
    def purpose(self) -> Purpose:
        """Whose worker may read it."""
        return "private" if self.thread.is_memory_only else "chat"


@dataclass(frozen=True, slots=True)
class _Path:
    """The end of the branch that leads to an answer, by turns; `earlier` messages were not even read."""

    turns: list[list[Message]]
    tokens: list[int]
    earlier: int


class Composer(Stage):
    """Composes the requests of this extension's own runs, and lets all others pass."""

    name = "conversational"
    phase = Phase.COMPOSE

    def __init__(self, context: Context[Any]) -> None:
        self._context = context
        self._counts = Counts(context)
        self._drafts: dict[int, Draft] = {}

    @contextmanager
    def composing(self, request: ChatRequest, draft: Draft) -> Iterator[None]:
        """Inside, `request` is composed from `draft` when it passes."""
        self._drafts[id(request)] = draft
        try:
            yield
        finally:
            del self._drafts[id(request)]

    async def before(self, run: Run) -> None:
        """Fill in the messages."""
        draft = self._drafts.get(id(run.request))
        if draft is not None:
            assert isinstance(run.request, ChatRequest)
            await self.compose(run.request, draft)

    async def compose(self, request: ChatRequest, draft: Draft) -> None:
        """Fill in the messages of `request`. Raises ContextTooLong where the policy of the thread allows none."""
        card = await self._context.models.find(request.model)
        budget = _budget(card, request, draft.thread)
        files = Files(draft.archive, draft.thread.id, card)
        path = await self._path(card, draft, budget, files)
        system: list[ChatMessage] = []
        if instructions := instructions_of(draft.assistant, draft.thread):
            system.append({"role": "system", "content": instructions})
        counts = self._counts.of(draft.purpose)
        system_tokens = await counts.system(card, system)
        tail = await counts.whole(card, [*system, *_said(path.turns[-1])]) - system_tokens
        turns = [
            Turn(turn[0].id, tokens + files.image_tokens(turn), any(message.is_pinned for message in turn))
            for turn, tokens in zip(path.turns, [*path.tokens, tail], strict=True)
        ]
        summary_text = await self._summary(draft, path)
        summary = await counts.system(card, [{"role": "system", "content": summary_text}])
        recall = min(budget // 4, _RECALL_TOKENS) if draft.thread.context.retrieval else 0
        limit = budget
        while True:
            trimmed = trim(
                turns,
                system_tokens=system_tokens,
                budget_tokens=limit,
                kept_from=draft.thread.kept_from,
                reserve_tokens=summary + recall if len(turns) > 1 else 0,
            )
            told = _Told(path, trimmed, summary_text)
            told.images = await files.images(told.shown)
            if told.left_out and recall:
                told.passages = await self._recalled(draft, path.turns[-1][0], told.ids, recall)
            request.messages = [*system, *told.messages()]
            tokens = trimmed.tokens + (summary + recall if told.left_out else 0)
            if tokens < budget * _EXACT_FROM:
                break
            tokens = await counts.whole(card, without_images(request.messages))
            tokens += files.image_tokens(told.shown)
            if tokens <= budget:
                break
            limit -= max(1, tokens - budget)  # this template adds more than the sum of the turns
        if told.left_out and draft.thread.context.strategy == "refuse":
            raise ContextTooLong(
                f"The conversation no longer fits: {told.left_out} messages would be left out of the prompt,"
                f" whose budget is {budget} tokens.",
                fix="Let the oldest be left out or put into a summary (the thread's context), or raise the budget.",
            )
        draft.kept_from = trimmed.kept_from
        draft.seen = {
            "model": card.id,
            "context_tokens": card.context_tokens,
            "tokens": {"budget": budget, "prompt": tokens, "system": system_tokens},
            "messages": told.ids,
            "files": files.noted(told.ids),
            "left_out": told.left_out,
            "is_cut_anew": trimmed.is_cut_anew,
            "has_summary": told.has_summary,
            "recalled": sorted({passage.message for passage in told.passages}),
            "instructions": {"assistant": draft.assistant.id, "version": draft.assistant.version},
        }

    async def _summary(self, draft: Draft, path: _Path) -> str:
        """The thread's summary, where it tells of this branch."""
        thread, end = draft.thread, path.turns[-1][0].id
        if not thread.summary or thread.summary_upto is None:
            return thread.summary
        upto = thread.summary_upto
        return thread.summary if await draft.archive.read(lambda rows: rows.leads_to(upto, end)) else ""

    async def _path(self, card: ModelCard, draft: Draft, budget: int, files: Files) -> _Path:
        """As many turns as could be told, and at least one more where there are more."""
        answer = draft.answer
        end = answer.parent if not answer.parts else answer.id
        assert end is not None, "an answer follows a question"
        limit: int | None = _FIRST_LOOK
        while True:
            turns, earlier = await draft.archive.read(partial(_turns, end=end, limit=limit))
            turns = await files.opened(turns)
            tokens = await self._counts.of(draft.purpose).turns(card, turns[:-1])
            if not earlier:
                return _Path(turns, tokens, 0)
            if sum(tokens) > budget:
                first = turns[0][0].depth
                pinned = await draft.archive.read(lambda rows: rows.pinned(draft.thread.id))
                if limit is None or all(message.depth >= first for message in pinned):
                    return _Path(turns, tokens, earlier)
                limit = None  # a pinned message lies further up, perhaps on this branch
            else:
                limit = limit and limit * 4

    async def _recalled(
        self, draft: Draft, end: Message, told: Sequence[str], budget_tokens: int
    ) -> list[Passage]:
        """Sentences of the turns that are left out, as far back as is worth looking."""
        shown = set(told)
        if end.parent is None:
            return []
        branch = await draft.archive.read(lambda rows: rows.path(str(end.parent), _RECALL_MESSAGES))
        said = [
            Said(message.id, message.role == "user", text_of(message.parts))
            for message in branch
            if message.id not in shown
        ]
        question = await draft.archive.read(lambda rows: rows.message(end.id))  # without what its files hold
        return await asyncio.to_thread(recalled, said, text_of(question.parts), budget_tokens)


class _Told:
    """The turns that are told, with what stands for those that are not."""

    def __init__(self, path: _Path, trimmed: Trimmed, summary: str) -> None:
        kept = set(trimmed.kept)
        self._turns = [turn for turn in path.turns if turn[0].id in kept]
        self._summary = summary
        self.passages: list[Passage] = []
        self.images: Mapping[str, str] = {}
        self.left_out = path.earlier + sum(len(turn) for turn in path.turns) - len(self.ids)

    @property
    def shown(self) -> list[Message]:
        """The messages that are told as they are."""
        return [message for turn in self._turns for message in turn]

    @property
    def ids(self) -> list[str]:
        """Their ids."""
        return [message.id for message in self.shown]

    @property
    def has_summary(self) -> bool:
        """Whether a summary stands for what is left out."""
        return bool(self._summary and self.left_out)

    def messages(self) -> list[ChatMessage]:
        """As a model reads them. The summary changes with the cut only, so it stands before the first turn; what
        changes with each question stands behind the last: what lies between is read from the cache.
        """
        told = in_turn([each for turn in self._turns for each in _said(turn, self.images)])
        if self.has_summary:
            told[0] = _with_text(told[0], lambda text: _SUMMARY.format(summary=self._summary, text=text))
        if self.passages:
            last = max((place for place, message in enumerate(told) if message["role"] == "user"), default=0)
            listed = "\n".join(f"- {passage.text}" for passage in self.passages)
            told[last] = _with_text(told[last], lambda text: _RECALLED.format(text=text, passages=listed))
        return told


def _with_text(message: ChatMessage, change: Callable[[str], str]) -> ChatMessage:
    if isinstance(message["content"], str):
        return {**message, "content": change(message["content"])}
    parts = list(message["content"])  # with images: the text stands somewhere among them, or nowhere
    place = next((place for place, part in enumerate(parts) if part["type"] == "text"), len(parts))
    text = parts[place]["text"] if place < len(parts) else ""
    parts[place : place + 1] = [{"type": "text", "text": change(text)}]
    return {**message, "content": parts}


def _budget(card: ModelCard, request: ChatRequest, thread: Thread) -> int:
    """Tokens that the prompt may have: what the answer leaves of the context, and no more than the thread allows.

    An answer that may fill the context is not promised more than half of it.
    """
    answer = min(
        request.max_tokens or min(_ANSWER_TOKENS, card.context_tokens // 4), card.context_tokens // 2
    )
    return min(card.context_tokens - answer, thread.context.budget_tokens or card.context_tokens)


def _turns(rows: Rows, end: str, limit: int | None) -> tuple[list[list[Message]], int]:
    """The turns that lead to a message, and how many messages lie before them."""
    turns: list[list[Message]] = []
    path = rows.path(end, limit)
    for message in path:
        if message.role == "user" or (not turns and message.parent is None):
            turns.append([])
        if turns:
            turns[-1].append(message)
    return turns, (turns[0][0].depth if turns else path[-1].depth + 1) - 1


def _said(turn: Sequence[Message], images: Mapping[str, str] = MappingProxyType({})) -> list[ChatMessage]:
    return [each for message in turn for each in as_openai(message.role, message.parts, images)]
