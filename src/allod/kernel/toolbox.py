"""The tools of all extensions: told to models, run for them within limits, and never without the right to."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from allod.kernel import custody
from allod.kernel.faults import is_fault
from allod.sdk.chat import Message, Run
from allod.sdk.errors import AllodError, BadRequest, ExtensionFailed
from allod.sdk.tools import Tool

LONGEST_RESULT = 32_000
"""Characters of a result that a model is told; more would only push the question out of its context."""

_log = logging.getLogger("allod.toolbox")


class Toolbox:
    """Tools by the names that models know them by: `<extension>_<name>`."""

    def __init__(self) -> None:
        self._tools: dict[str, tuple[str, Tool[Any]]] = {}

    def add(self, extension: str, tools: Sequence[Tool[Any]]) -> None:
        """Add an extension's tools. Raises ExtensionFailed for a name that another one's tool has."""
        for tool in tools:
            other = self._tools.get(f"{extension}_{tool.name}")
            if other is not None:
                raise ExtensionFailed(
                    f"Its tool {tool.name!r} has the same name, {extension}_{tool.name}, as one of {other[0]!r}.",
                    fix="Rename it.",
                )
            tool.arguments.model_json_schema()
        self._tools |= {f"{extension}_{tool.name}": (extension, tool) for tool in tools}

    def remove(self, extension: str) -> None:
        """Take an extension's tools out."""
        self._tools = {name: pair for name, pair in self._tools.items() if pair[0] != extension}

    def all(self) -> Mapping[str, tuple[str, Tool[Any]]]:
        """All tools, by name, each with its extension."""
        return dict(self._tools)

    def describe(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """The tools of these names in OpenAI's form. Raises BadRequest for one that is not there."""
        described = []
        for name in names:
            if name not in self._tools:
                raise BadRequest(
                    f"There is no tool {name[:80]!r} on this server.",
                    fix="GET /api/tools lists them.",
                    param="tools",
                )
            _, tool = self._tools[name]
            function = {
                "name": name,
                "description": tool.summary,
                "parameters": tool.arguments.model_json_schema(),
            }
            described.append({"type": "function", "function": function})
        return described

    async def answer(self, run: Run, calls: Sequence[Mapping[str, Any]]) -> list[Message]:
        """Run the calls, side by side, and give a message with the result of each. Failures are results too."""
        results = await asyncio.gather(*(self._result(run, call["function"]) for call in calls))
        return [
            {"role": "tool", "tool_call_id": call["id"], "content": result}
            for call, result in zip(calls, results, strict=True)
        ]

    async def _result(self, run: Run, call: Mapping[str, Any]) -> str:
        name = str(call["name"])
        if name not in run.tools or name not in self._tools:
            return f"There is no tool {name[:80]!r}."
        extension, tool = self._tools[name]
        if tool.effect == "changes" and not run.caller.may(extension):
            return "The user has not allowed this tool to change anything."
        try:
            arguments = tool.arguments.model_validate(json.loads(call["arguments"] or "{}"))
        except json.JSONDecodeError:
            return "The arguments are not valid JSON."
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            return f"The argument {'.'.join(map(str, first['loc']))!r} is wrong: {first['msg']}."
        run.note("tools", tool=name)
        return await self._called(extension, tool, arguments, run)

    async def _called(self, extension: str, tool: Tool[Any], arguments: Any, run: Run) -> str:
        try:
            with custody.inside(extension):
                async with asyncio.timeout(tool.timeout_s):
                    result = await tool.call(arguments, run)
        except TimeoutError:
            return f"The tool did not answer within {tool.timeout_s:g} s."
        except AllodError as error:
            return error.message
        except BaseException as error:
            if not is_fault(error):
                raise
            _log.exception("the tool %s of %s failed", tool.name, extension)
            return "The tool failed."
        if not isinstance(result, str):
            _log.error("the tool %s of %s gave %s, not text", tool.name, extension, type(result).__name__)
            return "The tool failed."
        if len(result) > LONGEST_RESULT:
            return f"{result[:LONGEST_RESULT]}\n[cut: {len(result) - LONGEST_RESULT} more characters]"
        return result
