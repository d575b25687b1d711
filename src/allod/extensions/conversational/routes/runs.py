"""Runs: ask, follow, stop; and what the model saw."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Header
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from allod.extensions.conversational.bodies import Name, Parameters
from allod.extensions.conversational.parts import Words
from allod.extensions.conversational.records import Queued
from allod.extensions.conversational.routes.queue import parts_of
from allod.extensions.conversational.runs import Asked
from allod.extensions.conversational.shown import message_as_json, queued_as_json
from allod.sdk.errors import NotFound

if TYPE_CHECKING:
    from allod.extensions.conversational.extension import Rooms

_NUMBER = re.compile(r"[0-9]{1,12}")
_NO_STORE = {"cache-control": "no-store", "x-accel-buffering": "no"}


class NewRun(BaseModel):
    """The body of POST /threads/{thread}/runs."""

    model_config = ConfigDict(extra="forbid")

    input: Words | list[dict[str, Any]] | None = Field(
        default=None, description="A new question: text, or parts. It ends the active branch."
    )
    parent: str | None = Field(default=None, description="The answer that the question follows instead.")
    instead_of: str | None = Field(default=None, description="The question beside which it stands instead.")
    regenerate: str | None = Field(
        default=None, description="An answer, in whose place another one is written."
    )
    continue_: str | None = Field(
        default=None, alias="continue", description="An answer that was cut short, and is gone on with."
    )
    model: Name = ""
    assistant: Name = ""
    parameters: Parameters = Field(default={}, description="Fields of the request, such as temperature.")
    queue: bool = Field(
        default=True, description="Wait in line while another run answers; else that is an error."
    )

    def asked(self) -> Asked:
        """As the runs have it. Raises BadRequest for parts that cannot be."""
        return Asked(
            parts=parts_of(self.input),
            parent=self.parent,
            instead_of=self.instead_of,
            regenerate=self.regenerate,
            continues=self.continue_,
            model=self.model,
            assistant=self.assistant,
            parameters=self.parameters,
        )


def build(rooms: Rooms) -> APIRouter:
    """The routes."""
    router = APIRouter()
    runs = rooms.runs

    @router.post("/threads/{thread}/runs", status_code=202)
    async def begin_run(thread: str, body: NewRun) -> dict[str, Any]:
        """Have a question answered. The answer is written in the server, whoever listens: see `…/runs/{run}/events`.

        What is given back is kept. While another run answers, the question waits (`queued`).
        """
        rooms.idle.disturb()
        begun = await runs.start(thread, body.asked(), queues=body.queue)
        if isinstance(begun, Queued):
            return {"queued": queued_as_json(begun)}
        question = begun.question and message_as_json(begun.question)
        return {"run": begun.run, "question": question, "answer": message_as_json(begun.answer)}

    @router.get("/runs/{run}")
    async def one_run(run: str) -> dict[str, Any]:
        """How far a run is, and the message that it writes."""
        if (live := runs.live(run)) is not None:
            message, state = live.so_far(), live.state
        else:
            record, message = await rooms.shelf.find_run(run)
            state = record.state
        return {"run": run, "thread": message.thread, "state": state, "message": message_as_json(message)}

    @router.get("/runs/{run}/events", response_class=StreamingResponse)
    async def follow_run(
        run: str,
        last_event_id: Annotated[str | None, Header(description="Go on behind this frame.")] = None,
    ) -> StreamingResponse:
        """What a run says, as server-sent events with ids: state, context, text, reasoning, tool_call, ended.

        Ten minutes after its end only its message is known: one event `snapshot`.
        """
        after = int(last_event_id) if last_event_id and _NUMBER.fullmatch(last_event_id) else 0
        frames = await runs.events(run, after)
        return StreamingResponse(frames, media_type="text/event-stream", headers=_NO_STORE)

    @router.post("/runs/{run}/stop", status_code=204)
    async def stop_run(run: str) -> None:
        """End a run where it is. It can be continued."""
        if runs.live(run) is None:
            await rooms.shelf.find_run(run)
        runs.stop(run)
        await runs.wait(run)

    @router.get("/runs/{run}/context")
    async def what_the_model_saw(run: str) -> dict[str, Any]:
        """What the model saw: which messages, how many tokens, what was left out."""
        if (live := runs.live(run)) is not None and live.order.draft.seen:
            return live.order.draft.seen
        record, _ = await rooms.shelf.find_run(run)
        if record.context is None:
            raise NotFound(
                f"The run {run!r} did not come to ask the model.", fix="Look at its message's error."
            )
        return dict(record.context)

    return router
