"""What nobody caught is logged by its kind and place, never by its words."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from allod.kernel import log
from allod.kernel.log import _Formatter
from allod.sdk.errors import BadRequest

WORDS = "what the user wrote"


@pytest.fixture
def said() -> Iterator[io.StringIO]:
    """All that is logged, as the server prints it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter("%(levelname)s %(message)s"))
    logging.getLogger("allod").addHandler(handler)
    logging.getLogger("asyncio").addHandler(handler)
    yield stream
    logging.getLogger("allod").removeHandler(handler)
    logging.getLogger("asyncio").removeHandler(handler)


async def test_an_error_of_a_task_that_nobody_took(said: io.StringIO) -> None:
    async def fail() -> None:
        raise ValueError(WORDS)

    log.guard(asyncio.get_running_loop())
    task = asyncio.create_task(fail(), name="a forgotten one")
    await asyncio.wait([task])
    del task
    gc.collect()
    assert "a forgotten one ended with an error" in said.getvalue()
    assert "ValueError" in said.getvalue()
    assert "test_log.py" in said.getvalue()
    assert WORDS not in said.getvalue()


def test_an_error_of_a_thread_and_of_the_program() -> None:
    program = f"""
import threading
from allod.kernel import log
log.configure()
def fail():
    raise ValueError({WORDS!r})
thread = threading.Thread(target=fail)
thread.start()
thread.join()
fail()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("nobody took this error") == 2
    assert done.stderr.count("ValueError") == 2
    assert WORDS not in done.stderr


def test_an_error_in_a_line() -> None:
    assert log.said_of(ValueError(WORDS)) == "ValueError"
    assert log.said_of(BadRequest("The field is wrong.")) == "The field is wrong."
