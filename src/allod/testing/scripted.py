"""A worker that plays a script: it takes llama-server's command line and speaks as llama-server does, without a model.

`install` writes the program that the setting `llamacpp.binary` then names, so that faults and corners of the protocol
reach Allod on the real path: started in the real jail, over the real socket, through the real parsing.

A script is a JSON object; every key may be left out.
    "answers"         what a question ends with -> the steps of its answer (scripted_steps.py); "*" for all others
    "loading_s"       so long /health says that the model is being loaded
    "print", "exit"   at its start it prints this, and ends with this status
    "without_flags"   flags that --help does not name
It is read at the start of each worker. A token is a byte.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import httptools
import orjson

from allod.testing.scripted_steps import Action, Answer, Form, chosen

FLAGS = frozenset(
    "--model --alias --host --port --ctx-size --kv-unified --kv-unified-per-slot --parallel --batch-size --ubatch-size"
    " --threads --threads-http --cache-type-k --cache-type-v --cache-ram --no-cache-idle-slots --slot-save-path"
    " --metrics --slots --no-webui --offline --no-warmup --jinja --verbosity --gpu-layers --embeddings --pooling"
    " --mmproj --chat-template-file --lora --help".split()
)
_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_VECTOR = "AACAPwAAAAA="  # [1.0, 0.0] in base64


def install(folder: Path, script: Mapping[str, Any]) -> Path:
    """Write a program into `folder` that plays `script`, and give its path. Writing again changes the next worker's."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "script.json"
    file.write_bytes(orjson.dumps(script))
    program = folder / "llama-server"
    program.write_text(
        f"#!{sys.executable} -I\nimport sys\nfrom allod.testing.scripted import main\n"
        f"main({str(file)!r}, sys.argv[1:])\n"
    )
    program.chmod(0o755)
    return program


def main(file: str, arguments: Sequence[str]) -> None:
    """Serve until killed."""
    script = orjson.loads(Path(file).read_bytes())
    if "--help" in arguments:
        os.write(1, "\n".join(sorted(FLAGS - {*script.get("without_flags", ())})).encode())
        return
    os.write(2, script.get("print", "").encode())
    if "exit" in script:
        sys.exit(script["exit"])
    options = _options(arguments)
    serving = _serve(options["--host"], ScriptedWorker(script, options))
    if sys.platform == "win32":
        asyncio.run(serving)
    else:
        import uvloop

        uvloop.run(serving)


def _options(arguments: Sequence[str]) -> dict[str, str]:
    if unknown := [word for word in arguments if word.startswith("--") and word not in FLAGS]:
        sys.exit(f"error: invalid argument: {unknown[0]}")
    following = [*arguments[1:], ""]
    return {flag: value for flag, value in zip(arguments, following, strict=True) if flag in FLAGS}


async def _serve(host: str, worker: ScriptedWorker) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: _Connection(worker), host, backlog=512)
    await server.serve_forever()


class ScriptedWorker:
    """What the routes answer. A route gives JSON; those that answer in steps give actions."""

    def __init__(self, script: Mapping[str, Any], options: Mapping[str, str]) -> None:
        self._answers = script.get("answers", {})
        self._model = options.get("--alias", "scripted")
        self._slots = int(options.get("--parallel", 1))
        self._ready_at = time.monotonic() + script.get("loading_s", 0)
        self._kept: dict[tuple[Any, ...], list[Action]] = {}
        self.running = 0
        self._routes: Mapping[str, Callable[[Any], Any]] = {
            "/health": lambda _: {"status": "ok"},
            "/props": lambda _: {"total_slots": self._slots, "model_alias": self._model},
            "/slots": lambda _: self._slots_at_work(),
            "/tokenize": lambda body: {"tokens": _tokens(body["content"], body.get("with_pieces", False))},
            "/detokenize": lambda body: {"content": bytes(body["tokens"]).decode(errors="replace")},
            "/apply-template": lambda body: {"prompt": _prompt(body)},
            "/v1/chat/completions/input_tokens": lambda body: {"input_tokens": len(_prompt(body).encode())},
            "/v1/embeddings": lambda body: {
                "data": [{"embedding": _VECTOR}],
                "usage": {"prompt_tokens": len(body["input"])},
            },
        }

    def reply(self, path: str, body: bytes) -> tuple[int, Any] | list[Action]:
        """Status and JSON, or what to do."""
        if time.monotonic() < self._ready_at:
            return 503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
        asked = orjson.loads(body) if body else {}
        if path in ("/v1/chat/completions", "/completion") and asked.get("stream"):
            return self._play("chat" if path.startswith("/v1") else "completion", asked)
        if path == "/completion":  # asked for the grammar of a JSON schema
            return 200, {"content": "", "generation_settings": {"grammar": 'root ::= "{}"'}}
        route = self._routes.get(path)
        if route is None:
            return 404, {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}
        return 200, route(asked)

    def _play(self, form: Form, asked: Mapping[str, Any]) -> tuple[int, Any] | list[Action]:
        prompt = _prompt(asked)
        steps = chosen(self._answers, prompt)
        if isinstance(steps[0], Mapping) and "status" in steps[0]:
            return steps[0]["status"], steps[0].get("body")
        include_usage = bool((asked.get("stream_options") or {}).get("include_usage"))
        key = (id(steps), form, len(prompt), include_usage)
        if key not in self._kept:
            answer = Answer(form, self._model, len(prompt.encode()), include_usage=include_usage)
            self._kept[key] = answer.actions(steps)
        return self._kept[key]

    def _slots_at_work(self) -> list[dict[str, Any]]:
        return [{"id": slot, "is_processing": slot < self.running} for slot in range(self._slots)]


def _prompt(asked: Mapping[str, Any]) -> str:
    """The prompt of a completion, or all texts of a conversation, a line each."""
    if "messages" not in asked:
        prompt = asked.get("prompt", "")
        return prompt if isinstance(prompt, str) else bytes(prompt).decode(errors="replace")
    return "\n".join(str(message.get("content") or "") for message in asked["messages"])


def _tokens(text: str, pieces: bool) -> list[Any]:
    ids = list(text.encode())
    return [{"id": token, "piece": [token]} for token in ids] if pieces else ids


class _Connection(asyncio.Protocol):
    """One connection, one request at a time. A client that leaves ends the answer."""

    def __init__(self, worker: ScriptedWorker) -> None:
        self._worker = worker
        self._parser = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []
        self._path = ""
        self._playing: asyncio.Task[None] | None = None
        self._may_write = asyncio.Event()
        self._may_write.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        if self._playing is not None:
            self._playing.cancel()

    def pause_writing(self) -> None:
        """Called by the event loop: the reader is slow."""
        self._may_write.clear()

    def resume_writing(self) -> None:
        """Called by the event loop."""
        self._may_write.set()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        """Called by the parser."""
        self._path = url.decode()

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Called by the parser: answer."""
        answer = self._worker.reply(self._path, b"".join(self._body))
        self._body.clear()
        if isinstance(answer, tuple):
            body = orjson.dumps(answer[1])
            head = (
                f"HTTP/1.1 {answer[0]} Said\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            )
            self._transport.write(head.encode() + b"\r\n\r\n" + body)
        elif len(answer) == 1 and isinstance(answer[0], bytes):
            self._transport.write(_STREAM + _chunk(answer[0]) + _chunk(b""))
        else:
            self._playing = asyncio.create_task(self._play(answer))

    async def _play(self, actions: Sequence[Action]) -> None:
        self._worker.running += 1
        try:
            self._transport.write(_STREAM)
            for action in actions:
                if isinstance(action, bytes):
                    await self._may_write.wait()
                    self._transport.write(_chunk(action))
                elif isinstance(action, float):
                    await asyncio.sleep(action)
                else:
                    await self._do(action)
            if not self._transport.is_closing():
                self._transport.write(_chunk(b""))
        finally:
            self._worker.running -= 1

    async def _do(self, deed: str) -> None:
        if deed == "cut":
            self._transport.close()
        elif deed == "hang":
            await asyncio.Event().wait()
        elif deed == "deaf":
            time.sleep(3600)  # noqa: ASYNC251 (the whole process is to stand still)
        elif deed == "die":
            await asyncio.sleep(0.05)  # what was written leaves first
            os._exit(9)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
