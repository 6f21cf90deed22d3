"""The key terms of a question: its words without those that most questions have. Other languages than English are
not supported."""

from __future__ import annotations

import re

COMMON = frozenset(
    """a about am an and any are as at be been being but by can could did do does for from had has have he
    her his how i if in into is it its kind many me most much my name named of on one or our please she
    should so some that the their them there these they this those to type us was we were what when
    where which who whom whose why will with would you your""".split()  # noqa: SIM905
)


def key_terms(question: str) -> str | None:
    """A question's words in order, without common words; None if no word is left."""
    words = [word for word in re.findall(r"[\w'’.-]+", question) if word.lower().strip(".'") not in COMMON]
    return " ".join(words).strip(" .'-") or None
