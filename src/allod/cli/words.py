"""The command line's words: English in the code, 简体中文 in chinese.py, chosen by the locale.

What the server itself says (its errors, states, the doctor's findings) is not translated.
"""

from __future__ import annotations

import os
from collections.abc import Mapping


def is_chinese(environment: Mapping[str, str]) -> bool:
    """Whether the first of LC_ALL, LC_MESSAGES and LANG that is set says zh."""
    names = ("LC_ALL", "LC_MESSAGES", "LANG")
    return next((value for name in names if (value := environment.get(name))), "").lower().startswith("zh")


def _table() -> Mapping[str, str]:
    if not is_chinese(os.environ):
        return {}
    from allod.cli.chinese import CHINESE

    return CHINESE


_TABLE = _table()


def say(text: str, **values: object) -> str:
    """`text` in the person's language, with `{names}` filled from `values`."""
    text = _TABLE.get(text, text)
    return text.format(**values) if values else text
