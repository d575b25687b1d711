"""The straight path: the example that the product is known by, on a real server with a real model."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request

import pytest

from allod.testing.server import RunningServer

_SNIPPET = """
fetch('%s/v1/chat/completions', { method: 'POST', headers: {'Content-Type': 'application/json'},
  body: JSON.stringify({ model: 'jan', messages: [{role: 'user', content: '分析这份技术文档'}], stream: true }) })
  .then(async answer => { for await (const chunk of answer.body) process.stdout.write(chunk) })
"""


def test_the_snippet_streams_an_answer(server: RunningServer) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    with subprocess.Popen([node, "-e", _SNIPPET % server.url], stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        frames = []
        for line in client.stdout:
            if line.startswith(b"data: "):
                frames.append(line[6:].strip())
            if len(frames) == 30 or frames[-1:] == [b"[DONE]"]:  # so small a model may never come to an end
                client.kill()
                break
    chunks = [json.loads(frame) for frame in frames if frame != b"[DONE]"]
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert len(text) > 5
    assert len(chunks) > 3


def test_health_says_ready(server: RunningServer) -> None:
    with urllib.request.urlopen(f"{server.url}/health/ready") as answer:
        assert answer.status == 200
