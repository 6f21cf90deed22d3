"""A response of the format `paper`: what a client can receive while it is being written, and the complete message.

A stream never takes text back. Text that could still become a call, a stop text or the rest of a character is held
back, so that the pieces of a stream, joined, are the answer. Parsing a response is the work of `trice.formats.paper`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trice.formats.paper import ParsedResponse, call_opening, find_call
from trice.server.events import (
    CallExecuted,
    ResponseDone,
    ResponseEvent,
    ResponseParsed,
    SecondTurnDone,
    TextSoFar,
)
from trice.types import Execution, Outcome

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # how a tokenizer decodes the first bytes of a character


@dataclass
class StreamedAnswer:
    """One response as far as it is known.

    `text` is what the model has written, without leading white space. `reading` is set when the response is complete,
    `final` (the final answer without the text before a call) when its call and second turns are finished too.
    """

    tool_names: Sequence[str]  # of the tools on offer
    stops: Sequence[str] = ()
    text: str = ""
    truncated: bool = False
    reading: ParsedResponse | None = None
    execution: Execution | None = None
    turns: list[str] | None = None
    final: str | None = None
    probability: dict[str, Any] | None = None
    sent: str = ""
    sent_raw: str = ""
    _opening: re.Pattern[str] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.tool_names:
            self._opening = call_opening(self.tool_names)

    def update(self, one: ResponseEvent) -> None:
        """Apply an event of the worker."""
        if isinstance(one, TextSoFar):
            self.text = one.text.lstrip()
        elif isinstance(one, ResponseParsed):
            self.text, self.reading, self.truncated = one.text, one.reading, one.truncated
        elif isinstance(one, CallExecuted):
            self.execution = one.execution
        elif isinstance(one, SecondTurnDone):
            self.turns = one.turns
        elif isinstance(one, ResponseDone):
            self.final = one.answer

    def deltas(self, one: ResponseEvent) -> list[dict[str, Any]]:
        """What an event that has been applied adds to a stream."""
        deltas: list[dict[str, Any]] = []
        if raw := self.next_raw_piece():
            deltas.append({"trice": {"text": raw}})
        if isinstance(one, ResponseParsed):
            deltas.append({"trice": self._decision()})
        elif isinstance(one, CallExecuted):
            deltas.append({"trice": {"execution": execution_fields(self.execution)}})
        elif isinstance(one, SecondTurnDone):
            deltas.append({"trice": {"turns": self.turns}})
        if content := self.next_piece():
            deltas.append({"content": content})
        return deltas

    def message(self) -> dict[str, Any]:
        """The complete message, with the extension `trice`."""
        extension = {"response": self.text} | self._decision()
        extension |= {"execution": execution_fields(self.execution), "turns": self.turns}
        return {"content": self.content(), "trice": extension | {"probability": self.probability}}

    def finish_reason(self) -> str:
        """`length` if the response reached its length limit without a call, else `stop`."""
        called = self.reading is not None and self.reading.outcome is Outcome.CALLED
        return "length" if self.truncated and not called else "stop"

    def _decision(self) -> dict[str, Any]:
        """The outcome of the response, with its call or the reason why the call is malformed."""
        assert self.reading is not None
        outcome, call, reason, _ = self.reading
        return {"decision": outcome.value, "call": call and call.model_dump(), "reason": reason}

    def next_piece(self) -> str:
        """The part of the answer that can be sent now and has not been sent."""
        text = self.text[: self._answer_length()].rstrip() if self.final is None else self.content()
        piece, self.sent = remainder(text, self.sent)
        return piece

    def next_raw_piece(self) -> str:
        """The same for the response as the model writes it, with its call."""
        text = self.text if self.reading else self.text[: self._stable_length()].rstrip()
        piece, self.sent_raw = remainder(text, self.sent_raw)
        return piece

    def content(self) -> str:
        """The complete answer: the response if it has no call, else the text before the call, a line break, and the
        final answer."""
        assert self.reading is not None
        assert self.final is not None
        if self.reading.outcome is Outcome.ANSWERED:
            return self.text
        before = self.text[: self._call_start()].strip()
        return f"{before}\n{self.final}" if before else self.final

    def _call_start(self) -> int:
        """Where the call or the malformed call begins."""
        assert self._opening is not None
        assert self.reading is not None
        if self.reading.written is not None:
            return find_call(self.text, self.reading.written)
        found = self._opening.search(self.text)
        return found.start() if found else 0

    def _answer_length(self) -> int:
        """The number of characters that cannot become a part of a call."""
        stable = self._stable_length()
        if self._opening is None:
            return stable
        found = self._opening.search(self.text)
        if found:
            return min(stable, found.start())
        return min(stable, partial_match(self.text, [f"{name}(" for name in self.tool_names], word=True))

    def _stable_length(self) -> int:
        """The number of characters that cannot become a part of a stop text or of an incomplete character."""
        end = len(self.text.rstrip(INCOMPLETE))
        return min(end, partial_match(self.text, self.stops, word=False))


def partial_match(text: str, targets: Sequence[str], word: bool) -> int:
    """Where the longest suffix of `text` begins that is a prefix of a target. With `word` it begins a word."""
    longest = max(map(len, targets), default=0)
    for start in range(max(0, len(text) - longest + 1), len(text)):
        if word and start and re.match(r"[A-Za-z0-9_]", text[start - 1]):
            continue
        if any(target.startswith(text[start:]) for target in targets):
            return start
    return len(text)


def execution_fields(execution: Execution | None) -> dict[str, Any] | None:
    """The result of a call and its duration."""
    if execution is None:
        return None
    seconds = round(execution.seconds, 4)
    return {"output": execution.output, "error": execution.error, "seconds": seconds}


def remainder(text: str, sent: str) -> tuple[str, str]:
    """The part of `text` after `sent`, and all that has been sent then."""
    return (text[len(sent) :], text) if text.startswith(sent) else ("", sent)
