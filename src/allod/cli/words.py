"""The command line's words: English in the code, 简体中文 here, chosen by the locale."""

from __future__ import annotations

import os

CHINESE = {
    "a": "b",
}


def _is_chinese() -> bool:
    """Whether the first of LC_ALL, LC_MESSAGES and LANG that is set says zh."""
    names = ("LC_ALL", "LC_MESSAGES", "LANG")
    return next((value for name in names if (value := os.environ.get(name))), "").lower().startswith("zh")


_TABLE = CHINESE if _is_chinese() else {}


def say(text: str, **values: object) -> str:
    """`text` in the person's language, with `{names}` filled from `values`."""
    text = _TABLE.get(text, text)
    return text.format(**values) if values else text
