"""Blocks the tokens that would complete the opening of a call, for tool choice `none`.

`CallBlocker` decides by the text so far, so every text without a call can still be generated: a tool named `t`
does not block "don't", and the word `calculator` is allowed. `CallBlocker.anywhere` is for engines that take
one list for the whole response. It also blocks tokens that complete an opening only after some texts, such as a
parenthesis without a space before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from trice.formats.paper import call_opening
from trice.formats.prompt import decode

TokenBlocker = Callable[[str], Sequence[int]]
"""Given the text so far, returns the tokens that may not follow it."""


class CallBlocker:
    """Blocks the tokens that complete `name(` of one of the tools `names`, however it is tokenised."""

    def __init__(self, tokenizer: Any, names: Sequence[str]) -> None:
        self.names = names
        self.length = max(map(len, names), default=0) + 1  # of the text's end that decides
        self._whole: list[int] = []  # tokens that contain an opening after something else
        self._completing: dict[str, list[int]] = {}  # tokens that complete an opening, by its beginning
        self._blocked: dict[tuple[str, ...], list[int]] = {}
        if names:
            self._classify(_token_texts(tokenizer))

    def _classify(self, texts: Sequence[str]) -> None:
        whole = call_opening(self.names)
        splits = [(name[:end], f"{name[end:]}(") for name in self.names for end in range(len(name) + 1)]
        for token, text in enumerate(texts):
            if "(" not in text:
                continue
            if whole.search(text, 1):
                self._whole.append(token)
            for beginning, rest in splits:
                if text.startswith(rest):
                    self._completing.setdefault(beginning, []).append(token)

    @property
    def anywhere(self) -> list[int]:
        """The tokens that complete an opening after some text."""
        completing = (token for tokens in self._completing.values() for token in tokens)
        return sorted({*self._whole, *completing})

    def __call__(self, text: str) -> Sequence[int]:
        end = text[-self.length :]
        beginnings = tuple(each for each in self._completing if _ends_with_word(end, each))
        if beginnings not in self._blocked:
            tokens = {token for each in beginnings for token in self._completing[each]}
            self._blocked[beginnings] = sorted(tokens.union(self._whole))
        return self._blocked[beginnings]


def _ends_with_word(text: str, beginning: str) -> bool:
    """Whether a text ends with the beginning of a call, and a word begins there."""
    if not text.endswith(beginning):
        return False
    before = text[: len(text) - len(beginning)][-1:]
    return not (before.isascii() and (before.isalnum() or before == "_"))


def _token_texts(tokenizer: Any) -> list[str]:
    """What each token adds to a text. A token precedes it because SentencePiece drops a space at the start."""
    (first,) = tokenizer(".", add_special_tokens=False)["input_ids"][-1:]
    before = decode(tokenizer, [first])
    texts = tokenizer.batch_decode(
        [[first, token] for token in range(len(tokenizer))], skip_special_tokens=True
    )
    return [text[len(before) :] if text.startswith(before) else text for text in texts]
