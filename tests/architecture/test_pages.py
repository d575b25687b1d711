"""What is printed from the code is fresh, and what is served points nowhere outside."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from allod.kernel.server_settings import ServerSettings
from allod.testing import contract
from allod.testing.markdown import problems_of
from allod.testing.server import RunningServer
from allod.testing.surface import surface_of
from tests.http_client import get

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs/reference"


def test_the_printed_pages_are_fresh() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "allod.testing.reference", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stderr


def test_a_changed_page_is_named(tmp_path: Path) -> None:
    (tmp_path / "src/allod/sdk").mkdir(parents=True)
    command = [sys.executable, "-m", "allod.testing.reference", "--root", str(tmp_path)]
    subprocess.run(command, check=True, timeout=60)
    (tmp_path / "docs/reference/errors.md").write_text("something else", "utf-8")
    (tmp_path / "docs/reference/left.md").write_text("nobody prints this", "utf-8")
    checked = subprocess.run([*command, "--check"], capture_output=True, text=True, timeout=60)
    assert checked.returncode == 1
    named = [line.split()[0] for line in checked.stderr.splitlines() if "stale" in line]
    assert named == ["docs/reference/errors.md", "docs/reference/left.md"]


def test_the_pages_name_no_machine_and_no_time() -> None:
    for page in REFERENCE.iterdir():
        text = page.read_text("utf-8")
        assert str(ROOT) not in text, page
        assert not re.search(r"/(home|root|tmp|work)/|python3?\.\d|\b20\d\d-\d\d-\d\d", text), page


def test_every_setting_of_the_server_says_what_it_is() -> None:
    for name, field in contract.fields_of(ServerSettings):
        assert field.title and field.description and not field.is_required(), name


def test_every_setting_is_on_the_page() -> None:
    page = (REFERENCE / "settings.md").read_text("utf-8")
    owners = {"server": ServerSettings}
    owners |= {point.name: point.load().Settings for point in contract.installed()}
    for owner, settings in owners.items():
        for name in settings.model_fields:
            assert f"`ALLOD_{owner}__{name}`".upper() in page.upper(), name


def test_nothing_served_points_outside(server: RunningServer) -> None:
    page = get(server, "/docs")
    assert page.status == 200
    paths = re.findall(rb'(?:href|src)="([^"]+)"', page.body)
    assert {b"/docs/docs.js", b"/docs/docs.css", b"/openapi.json"} <= set(paths)
    for path in ["/docs", *(path.decode() for path in paths)]:
        reply = get(server, path)
        assert reply.status == 200, path
        assert not re.search(rb"https?://|[\"'(]//\w", reply.body), path


def test_the_page_may_load_nothing_from_outside(server: RunningServer) -> None:
    policy = get(server, "/docs").headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"https?:|\*|unsafe", policy)


def test_the_document_on_disk_is_the_one_that_is_served(server: RunningServer) -> None:
    assert get(server, "/openapi.json").json == json.loads((REFERENCE / "openapi.json").read_text("utf-8"))


ENDLESS = ("/api/events",)


def test_every_route_of_the_page_answers(server: RunningServer) -> None:
    rows = re.findall(r"^\| (\w+) \| `([^`]+)`", (REFERENCE / "routes.md").read_text("utf-8"), re.MULTILINE)
    assert len(rows) > 20
    for method, path in rows:
        if method == "GET" and "{" not in path and path not in ENDLESS:
            assert get(server, path).status == 200, path


# the checks themselves


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("See [it](gone.md).", "gone.md leads nowhere"),
        ("See [it](../../out.md).", "leads nowhere"),
        ("See [it](b.md#other).", "names a heading that is not there"),
        ("See [it](b.md#a-heading--more), [this](#own), `[no](link)` and [that](https://example.org).", ""),
    ],
)
def test_links_are_followed(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.md").write_text(f"# Own\n\n{text}\n", "utf-8")
    (tmp_path / "docs/b.md").write_text("# A heading & more\n", "utf-8")
    found = [problem for problem in problems_of(tmp_path) if problem.startswith("docs/a.md")]
    assert len(found) == bool(said)
    assert said in "".join(found)


def test_twins_are_asked_for_both_ways(tmp_path: Path) -> None:
    (tmp_path / "docs/zh-CN").mkdir(parents=True)
    (tmp_path / "docs/zh-CN/more.md").write_text("# 更多\n", "utf-8")
    (tmp_path / "docs/api.md").write_text("# API\n", "utf-8")
    found = problems_of(tmp_path)
    assert "docs/zh-CN/api.md is missing: the twin of docs/api.md" in found
    assert "docs/zh-CN/more.md has no English twin docs/more.md" in found


def test_a_surface_is_names_and_signatures(tmp_path: Path) -> None:
    (tmp_path / "_hidden.py").write_text("x = 1\n", "utf-8")
    (tmp_path / "shown.py").write_text(
        "T = TypeVar('T')\n_own = 1\nLIMIT = 3\n\n\nclass B(A, total=False):\n    size: int = 1\n\n"
        "    async def go(self, to: str = 'x', *, far: bool) -> T:\n        return 1\n",
        "utf-8",
    )
    assert surface_of(tmp_path, "p").splitlines() == [
        "p.shown",
        "    class B(A, False)",
        "        async def go(self, to: str='x', *, far: bool) -> T",
        "        size: int = 1",
        "    LIMIT = 3",
    ]
