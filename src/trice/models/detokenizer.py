"""The text of a response that grows by one token id at a time, in constant time for each.

At every length it is what the tokenizer decodes all ids to: with half a character at its end, with the space that
SentencePiece drops at the start, and with clean-up of spaces. Only a window of the last ids is decoded. The window
moves to a place only where decoding the ids on both sides apart is verified to give the same text.
`tokenizers.decoders.DecodeStream` is not used: it withholds half a character and does no clean-up of spaces.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from trice.formats.prompt import decode

WINDOW = 32  # ids that are decoded before the window moves
CONTEXT = 12  # ids before the new text that are decoded with it
CERTAIN = 8  # bytes on either side of a place; clean-up of spaces looks at no more
UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer decodes the first bytes of a character to
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class Detokenizer:
    """`ids` so far and their `text`. `kept` is how many characters of the text the last id left as they were."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.text, self.kept = "", 0
        self._start, self._head, self._begun = (
            0,
            "",
            "",
        )  # the window; the text before it ends; its own part of that
        self._next = WINDOW  # ids at which the window moves

    def add(self, token: int) -> str:
        """The text with one id more."""
        self.ids.append(token)
        window = self._decoded(self._start)
        if not window.startswith(
            self._begun
        ):  # the tokenizer rewrites what is further back: decode everything
            self._start, self._head, self._begun = 0, "", ""
            self._next, window = len(self.ids) * 2, self._decoded(0)
        earlier, settled = self.text, len(self._head)
        self.text = self._head + window[len(self._begun) :]
        if self.text.startswith(earlier):
            self.kept = len(earlier)
        else:
            self.kept = settled + _alike(earlier[settled:], self.text[settled:])
        if len(self.ids) >= self._next:
            self._move()
            self._next = len(self.ids) + (WINDOW - CONTEXT) // 2
        return self.text

    def _decoded(self, start: int, end: int | None = None) -> str:
        return decode(self.tokenizer, self.ids[start:end])

    def _move(self) -> None:
        """Begin the window later, a few ids before a place at which the text is settled, where there is one."""
        count = len(self.ids)
        for place in range(count - 3, max(self._start + CONTEXT, count - WINDOW), -1):
            if not all(map(self._whole, self.ids[place - 1 : place + 1])):
                continue
            start = place - CONTEXT
            begun, window = self._decoded(start, place), self._decoded(start)
            new = window[len(begun) :]
            if _size(new) < CERTAIN:
                continue
            settled = len(self.text) - len(new)
            if (
                _size(begun) >= CERTAIN
                and begun[-1] != UNFINISHED
                and settled > len(self._head)
                and window.startswith(begun)
                and self.text.endswith(new)
            ):
                self._start, self._head, self._begun = start, self.text[:settled], begun
                return

    def _whole(self, token: int) -> bool:
        """Whether a token is neither a special one nor a byte: invalid bytes spoil all bytes next to them."""
        piece = self.tokenizer.convert_ids_to_tokens(token)
        return piece is not None and not _BYTE.fullmatch(piece) and decode(self.tokenizer, [token]) != ""


def _alike(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _size(text: str) -> int:
    return len(text.encode(errors="replace"))


def tail(tokenizer: Any, ids: Sequence[int], length: int) -> str:
    """The end of the text of `ids`, of at least so many characters where there are as many."""
    start = len(ids)
    while True:
        start = max(0, start - 2 * CERTAIN)
        while start and _BYTE.fullmatch(tokenizer.convert_ids_to_tokens(ids[start]) or ""):
            start -= 1  # the bytes of a character are decoded together
        text = decode(tokenizer, ids[start:])
        if len(text) >= length + CERTAIN or not start:
            return text
