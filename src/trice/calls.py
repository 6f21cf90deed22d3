"""Calls as text: reading them out of what a model wrote, and writing them.

A response is *called* where an offered tool's name stands directly before an opening parenthesis and the
matching parenthesis closes over arguments the tool accepts; the first such call counts, whatever stands
around it. It is *malformed* where name and parenthesis are there but no such call is, and *answered*
otherwise. Nothing is ever evaluated here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple

from trice.records import Call, Outcome

MAX_RESPONSE = 20_000  # characters of a response that are read
MAX_OPENINGS = 20  # a babble of calls is given up after this many
Parser = Callable[[str], dict[str, Any]]


class Reading(NamedTuple):
    """What a response turned out to be; `written` is the call as it stands there, `reason` why it is malformed."""

    outcome: Outcome
    call: Call | None = None
    reason: str | None = None
    written: str | None = None


def closing(text: str, start: int) -> int | None:
    """The index of the parenthesis that closes the one at `start`, or None where it never closes."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    return None


def opening(names: Iterable[str]) -> re.Pattern[str]:
    """Where a call of one of the tools begins; its first group is the tool's name."""
    return re.compile(rf"(?<![A-Za-z0-9_])({'|'.join(map(re.escape, names))})\(")


def place(text: str, written: str) -> int:
    """Where the call that was read in a response stands there."""
    found = re.search(rf"(?<![A-Za-z0-9_]){re.escape(written)}", text)
    return found.start() if found else 0


def texts(arguments: Mapping[str, Any]) -> dict[str, str]:
    """A call's arguments as text, so that 3 and "3" are the same."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in arguments.items()
    }


def read(text: str, parsers: Mapping[str, Parser]) -> Reading:
    """Read a response, given the argument parser of each offered tool by name."""
    text = text[:MAX_RESPONSE]
    if not parsers:
        return Reading(Outcome.ANSWERED)
    reason = None
    for match in islice(opening(parsers).finditer(text), MAX_OPENINGS):
        end = closing(text, match.end() - 1)
        if end is None:
            reason = reason or "the parenthesis never closes"
            continue
        arguments = text[match.end() : end].strip()
        try:
            if not arguments:
                raise ValueError("the call is empty")
            call = Call(name=match[1], arguments=parsers[match[1]](arguments))
            return Reading(Outcome.CALLED, call, written=text[match.start() : end + 1])
        except Exception as error:  # a parser is a stranger's code too: what it refuses is malformed
            reason = reason or str(error) or "the arguments do not parse"
    return Reading(Outcome.MALFORMED, reason=reason) if reason else Reading(Outcome.ANSWERED)


def render(name: str, argument: str) -> str:
    """A call with one argument as a model writes it: `calculator(3*19)`."""
    return f"{name}({argument})"
