"""What may change in an assistant's instructions: {user_name}, {date} and {time}. All other braces stay as they are.

A model's cache holds a conversation from its first word on, so that whatever changes in the instructions has all of it
read anew: with {date} once a day, with {time} at each turn.
"""

from __future__ import annotations

import re
from datetime import datetime

_VARIABLE = re.compile(r"\{(user_name|date|time)\}")
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def filled(instructions: str, user_name: str, now: datetime) -> str:
    """The instructions as a model reads them, at `now` in the user's own time.

    Where the user has not said a name, and for the day of the week, the words are Chinese in Chinese instructions.
    """
    is_chinese = _CHINESE.search(instructions) is not None
    weekday = f"星期{'一二三四五六日'[now.weekday()]}" if is_chinese else _WEEKDAYS[now.weekday()]
    values = {
        "user_name": user_name.strip() or ("用户" if is_chinese else "the user"),
        "date": f"{weekday}, {now:%Y-%m-%d}" if not is_chinese else f"{now:%Y-%m-%d} {weekday}",
        "time": f"{now:%H:%M}",
    }
    # in one pass, so that a name with braces in it is no variable
    return _VARIABLE.sub(lambda found: values[found[1]], instructions)
