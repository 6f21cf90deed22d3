"""What a client is given of a response: how much of it may be told while it is being written, and the final answer.

What has been told is never taken back: a text is held back as long as it could become a call, a stop text or half a
character, and so the pieces of a stream are exactly the answer. Reading a response is `trice.formats.paper`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trice.formats.paper import ParsedResponse, call_opening, find_call
from trice.tools.second_turn import final_answer
from trice.types import Execution, Outcome

UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # how a tokenizer writes the first bytes of a character


@dataclass
class Answer:
    """One response and what came of it, as far as it is known. `said` is what the model has written so far, without
    white space before it; `reading` is there when the response is whole, `over` says that all else is known too."""

    names: Sequence[str]  # of the tools on offer
    stops: Sequence[str] = ()
    said: str = ""
    full: bool = False
    over: bool = False
    reading: ParsedResponse | None = None
    execution: Execution | None = None
    turns: list[str] | None = None
    probability: dict[str, Any] | None = None
    told: str = ""
    quoted: str = ""
    _opening: re.Pattern[str] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.names:
            self._opening = call_opening(self.names)

    def piece(self) -> str:
        """What of the answer may be told now, and has not been."""
        text = self.content() if self.over else self.said[: self._certain()].rstrip()
        piece, self.told = _rest(text, self.told)
        return piece

    def raw_piece(self) -> str:
        """The same of the response as it is written, call and all."""
        text = self.said if self.reading else self.said[: self._whole()].rstrip()
        piece, self.quoted = _rest(text, self.quoted)
        return piece

    def content(self) -> str:
        """The final answer: the response itself, where it holds no call. Else what stood before the call, a line
        break, and what the call gave, or the model's answer over that, or a sentence on what went wrong."""
        assert self.reading is not None
        if self.reading.outcome is Outcome.ANSWERED:
            return self.said
        before = self.said[: self._place()].strip()
        return f"{before}\n{self._result()}" if before else self._result()

    def _result(self) -> str:
        assert self.reading is not None
        if self.reading.outcome is Outcome.MALFORMED:
            return f"The tool could not be called: {self.reading.reason}."
        if self.execution is None or self.execution.output is None:
            return f"The tool gave no result: {self.execution.error if self.execution else 'it was not run'}."
        if self.turns is not None:
            return final_answer(self.turns)
        return self.execution.output

    def _place(self) -> int:
        """Where the call begins, or what was to be one."""
        assert self._opening is not None
        assert self.reading is not None
        if self.reading.written is not None:
            return find_call(self.said, self.reading.written)
        found = self._opening.search(self.said)
        return found.start() if found else 0

    def _certain(self) -> int:
        """How many characters of what is said are no part of a call, whatever follows."""
        whole = self._whole()
        if self._opening is None:
            return whole
        found = self._opening.search(self.said)
        if found:
            return min(whole, found.start())
        return min(whole, _possible(self.said, [f"{name}(" for name in self.names], word=True))

    def _whole(self) -> int:
        """How many characters of what is said are sure to stay, whatever follows."""
        end = len(self.said.rstrip(UNFINISHED))
        return min(end, _possible(self.said, self.stops, word=False))


def _possible(text: str, wanted: Sequence[str], word: bool) -> int:
    """Where the longest end of a text begins that could become one of those `wanted`, at the beginning of a `word`
    or anywhere."""
    longest = max(map(len, wanted), default=0)
    for start in range(max(0, len(text) - longest + 1), len(text)):
        if word and start and re.match(r"[A-Za-z0-9_]", text[start - 1]):
            continue
        if any(each.startswith(text[start:]) for each in wanted):
            return start
    return len(text)


def _rest(text: str, told: str) -> tuple[str, str]:
    """What of a text comes after what was told, and what then has been."""
    return (text[len(told) :], text) if text.startswith(told) else ("", told)
