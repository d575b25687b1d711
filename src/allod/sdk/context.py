"""All that an extension is ever handed. Each member is already its own: settings, tables, secrets, jobs, children."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from allod.sdk.blobs import Blobs
from allod.sdk.chat import ChatRequest, GenerateRequest, Purpose
from allod.sdk.engine import LoadPlan, ModelCard, ModelId
from allod.sdk.events import Events
from allod.sdk.http import HttpClient
from allod.sdk.jobs import Jobs
from allod.sdk.processes import Processes
from allod.sdk.secrets import Secrets
from allod.sdk.storage import Store
from allod.sdk.stream import OpenedChat

T = TypeVar("T")
S_co = TypeVar("S_co", covariant=True)


class Models(Protocol):
    """The models of all engines, and what is in memory."""

    async def cards(self) -> Sequence[ModelCard]:
        """All models known."""
        ...

    async def find(self, name: str) -> ModelCard:
        """The model of this name, also by an alias. Raises ModelNotFound, which lists the known ones."""
        ...

    def state(self, model: ModelId, purpose: Purpose = "chat") -> str:
        """The state of a model's worker: stopped, starting, ready, busy, stopping or failed."""
        ...

    async def load(
        self, model: ModelId, keep_alive_s: float | None = None, pin: bool | None = None
    ) -> LoadPlan:
        """Load a model for chats now and wait for it. A pinned one is never unloaded to make room."""
        ...

    async def unload(self, model: ModelId, purpose: Purpose = "chat") -> None:
        """End a model's worker once its runs have ended; new ones wait and load it again."""
        ...

    async def count_tokens(self, request: ChatRequest, purpose: Purpose = "chat") -> int:
        """Tokens of the prompt that the model would read for `request` as it stands: no stage sees it. Loads nothing.

        The words of a "private" one go to no process that outlives its worker, or this count where it has none.
        Raises ModelNotFound, BadRequest where the model's engine cannot say or the model cannot read the request.
        """
        ...

    async def apply_template(self, request: ChatRequest, purpose: Purpose = "chat") -> str:
        """The prompt, as text, that the model would read for `request`. As count_tokens in all else."""
        ...

    def report(self) -> Sequence[Mapping[str, object]]:
        """What was used, a row for each model and purpose: state, reason, running, waiting, plan, memory and more."""
        ...


class Chat(Protocol):
    """The one door to every model: what goes in here passes the stages of all extensions."""

    async def open(
        self, request: GenerateRequest, *, tools: Sequence[str] = (), purpose: Purpose = "chat"
    ) -> OpenedChat:
        """Begin an answer; nothing is loaded or waited for until the stream is read.

        `tools` are names of tools (`extension_tool`) that the model may use and the server runs. A "private" one is
        answered by a worker of its own, which `models.unload(model, "private")` ends with all that it was told.
        Raises what a stage refuses with, ModelNotFound, UnsupportedParameter.
        """
        ...


class Context(Protocol[S_co]):
    """Handed to an extension before it starts."""

    @property
    def settings(self) -> S_co:
        """Frozen; read when used, never copied."""
        ...

    @property
    def data_folder(self) -> Path:
        """Allod's data folder. What is kept there in plain files is not encrypted: keep words in the store."""
        ...

    @property
    def store(self) -> Store:
        """Its own tables."""
        ...

    @property
    def blobs(self) -> Blobs:
        """Its own sealed files, for what is too large for a table."""
        ...

    @property
    def secrets(self) -> Secrets:
        """Its own secrets."""
        ...

    @property
    def http(self) -> HttpClient:
        """HTTP to the hosts of its manifest, as far as the user allows it."""
        ...

    @property
    def jobs(self) -> Jobs:
        """Its own jobs."""
        ...

    @property
    def chat(self) -> Chat:
        """Answers of models."""
        ...

    @property
    def events(self) -> Events:
        """What has happened, in this server."""
        ...

    @property
    def processes(self) -> Processes:
        """The only maker of child processes; its own end with it."""
        ...

    @property
    def models(self) -> Models:
        """The models of all engines."""
        ...

    @property
    def log(self) -> logging.Logger:
        """Never handed text of a message."""
        ...

    def service(self, kind: type[T]) -> T:
        """What another extension offers under an interface of the sdk. Raises ServiceMissing.

        Ask when you use it, not at start: the other one may be stopped and started again.
        """
        ...
