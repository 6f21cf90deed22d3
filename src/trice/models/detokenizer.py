"""The text of a response that grows by one token id at a time, in constant time per token.

At every length the text equals the tokenizer's decoding of all ids, including an incomplete character at its
end, the space that SentencePiece drops at the start, and the clean-up of spaces. Only a window of the last ids
is decoded. The window moves only to a position where decoding the ids on both sides separately is verified to
give the same text. `tokenizers.decoders.DecodeStream` is not used because it withholds incomplete characters
and does not clean up spaces.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from trice.formats.prompt import decode
from trice.models.batching import common_length

WINDOW = 32  # ids that are decoded before the window moves
CONTEXT = 12  # ids before the new text that are decoded with it
CERTAIN = 8  # bytes on either side of a position; the clean-up of spaces looks no further
UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # the decoding of the first bytes of a character
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class Detokenizer:
    """The `ids` so far and their `text`. `unchanged` is the number of characters that the last id did not
    change."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.text, self.unchanged = "", 0
        self._reset_window()
        self._next_move = WINDOW  # number of ids at which the window moves

    def _reset_window(self) -> None:
        self._start = 0  # the first id of the window
        self._head = ""  # the text up to the end of the window's context
        self._context = ""  # the part of the head that is decoded from the window

    def add(self, token: int) -> str:
        """The text with one more id."""
        self.ids.append(token)
        window = self._decode(self._start)
        if not window.startswith(self._context):  # the tokenizer rewrites earlier text: decode everything
            self._reset_window()
            self._next_move, window = len(self.ids) * 2, self._decode(0)
        earlier, settled = self.text, len(self._head)
        self.text = self._head + window[len(self._context) :]
        if self.text.startswith(earlier):
            self.unchanged = len(earlier)
        else:
            self.unchanged = settled + common_length(earlier[settled:], self.text[settled:])
        if len(self.ids) >= self._next_move:
            self._move_window()
            self._next_move = len(self.ids) + (WINDOW - CONTEXT) // 2
        return self.text

    def _decode(self, start: int, end: int | None = None) -> str:
        return decode(self.tokenizer, self.ids[start:end])

    def _move_window(self) -> None:
        """Begin the window later, a few ids before a position at which the text is settled, if there is one."""
        count = len(self.ids)
        for position in range(count - 3, max(self._start + CONTEXT, count - WINDOW), -1):
            if not all(map(self._is_text, self.ids[position - 1 : position + 1])):
                continue
            start = position - CONTEXT
            context, window = self._decode(start, position), self._decode(start)
            new = window[len(context) :]
            if _size(new) < CERTAIN:
                continue
            settled = len(self.text) - len(new)
            if (
                _size(context) >= CERTAIN
                and context[-1] != UNFINISHED
                and settled > len(self._head)
                and window.startswith(context)
                and self.text.endswith(new)
            ):
                self._start, self._head, self._context = start, self.text[:settled], context
                return

    def _is_text(self, token: int) -> bool:
        """Whether a token is neither special nor a single byte: an invalid byte changes the bytes next to it."""
        piece = self.tokenizer.convert_ids_to_tokens(token)
        return piece is not None and not _BYTE.fullmatch(piece) and decode(self.tokenizer, [token]) != ""


def _size(text: str) -> int:
    return len(text.encode(errors="replace"))


def tail(tokenizer: Any, ids: Sequence[int], length: int) -> str:
    """The end of the text of `ids`, at least `length` characters of it if there are as many."""
    start = len(ids)
    while True:
        start = max(0, start - 2 * CERTAIN)
        while start and _BYTE.fullmatch(tokenizer.convert_ids_to_tokens(ids[start]) or ""):
            start -= 1  # the bytes of one character are decoded together
        text = decode(tokenizer, ids[start:])
        if len(text) >= length + CERTAIN or not start:
            return text
