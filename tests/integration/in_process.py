"""A house with llama.cpp inside the test's own process: for what no route of a server asks for."""

from __future__ import annotations

from typing import Any

import psutil

from allod.kernel.house import House
from allod.testing.house import point

LLAMACPP = point("llamacpp", "allod.extensions.llamacpp.extension:LlamaCpp")
SMALL = {"llamacpp": {"context_tokens": 512, "pool_tokens": 512, "slots": 1}}


def engine(house: House) -> Any:
    """Its engine, llama.cpp."""
    return house.host.get("llamacpp").contributions.engines[0]


def children() -> list[psutil.Process]:
    """The walled processes that this one has started; a server that other tests share has its own."""
    return [child for child in psutil.Process().children() if _is_walled(child)]


def _is_walled(child: psutil.Process) -> bool:
    try:
        return any("jail.py" in word for word in child.cmdline())
    except psutil.NoSuchProcess:  # it has just ended
        return False
