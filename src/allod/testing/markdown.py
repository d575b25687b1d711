"""Whether Markdown pages hold together: links lead somewhere, and pages for users exist in both languages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

_LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$", re.MULTILINE)
_CHINESE = "docs/zh-CN"
_FOR_USERS = {
    "README.md": "README.zh-CN.md",
    "docs/cli.md": f"{_CHINESE}/cli.md",
    "docs/api.md": f"{_CHINESE}/api.md",
    "docs/store.md": f"{_CHINESE}/store.md",
    "docs/extensions.md": f"{_CHINESE}/extensions.md",
    "docs/assistants.md": f"{_CHINESE}/assistants.md",
    "docs/conversations.md": f"{_CHINESE}/conversations.md",
}
"""English page -> its Chinese twin."""


def problems_of(root: Path) -> list[str]:
    """What is wrong with the Markdown files of a repository, one line each."""
    return [*_broken_links(root), *_missing_twins(root)]


def _broken_links(root: Path) -> Iterator[str]:
    for page in sorted([*root.glob("*.md"), *root.glob("docs/**/*.md")]):
        for link in _LINK.findall(_CODE.sub("", page.read_text("utf-8"))):
            if re.match(r"[a-z][a-z0-9+.-]*:", link):
                continue  # leads out of the repository
            path, _, anchor = unquote(link).partition("#")
            target = (page.parent / path if path else page).resolve()
            where = page.relative_to(root).as_posix()
            if not target.exists() or not target.is_relative_to(root.resolve()):
                yield f"{where}: the link {link} leads nowhere"
            elif anchor and target.suffix == ".md" and anchor not in _anchors(target.read_text("utf-8")):
                yield f"{where}: the link {link} names a heading that is not there"


def _anchors(text: str) -> set[str]:
    """The names that GitHub gives to headings: small letters, blanks as dashes, no punctuation."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in _HEADING.findall(text)}


def _missing_twins(root: Path) -> Iterator[str]:
    for english, chinese in _FOR_USERS.items():
        if not (root / english).is_file():
            yield f"{english} is missing"
        if not (root / chinese).is_file():
            yield f"{chinese} is missing: the twin of {english}"
    for page in sorted((root / _CHINESE).rglob("*.md")):
        name = page.relative_to(root / _CHINESE).as_posix()
        if not (root / "docs" / name).is_file():
            yield f"{_CHINESE}/{name} has no English twin docs/{name}"
