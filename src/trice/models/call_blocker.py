"""Blocks the tokens that would begin a call, for tool choice `none`.

A response may not begin with a tool's name, or with its first token. There, `translator` is nearly always followed by a
parenthesis, and a model that may write the one and not the other continues with what it never writes: `translator (Who
…`. Without the name it answers as it does where it chooses not to call. Later in the text only the opening `name(` is
blocked: `CallBlocker` decides by the text so far, so a tool named `t` does not block "don't", and the word
`calculator` is allowed. `CallBlocker.anywhere` is for engines that take one list for the whole response. It also blocks
tokens that complete an opening only after some texts, such as a parenthesis without a space before it, and no names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from trice.formats.paper import call_opening
from trice.formats.prompt import decode

DISTINCT = 3  # letters of a first token; many words begin with fewer

TokenBlocker = Callable[[str], Sequence[int]]
"""Given the text so far, returns the tokens that may not follow it."""


class CallBlocker:
    """Blocks the tokens that complete `name(` of one of the tools `names`, however it is tokenised, and at the start of
    a text the names and their first tokens."""

    def __init__(self, tokenizer: Any, names: Sequence[str]) -> None:
        self.names = names
        self.length = max(map(len, names), default=0) + 1  # of the text's end that decides
        self._whole: list[int] = []  # tokens that contain an opening after something else
        self._completing: dict[str, list[int]] = {}  # tokens that complete an opening, by its beginning
        self._first: set[int] = set()  # the names, and their first tokens
        self._blocked: dict[tuple[str, ...], list[int]] = {}
        if names:
            texts = _token_texts(tokenizer)
            self._classify(texts)
            spelled = [before + name for name in names for before in ("", " ")]
            for ids in tokenizer(spelled, add_special_tokens=False)["input_ids"]:
                first = next((token for token in ids if texts[token].strip()), None)
                if first is not None and len(texts[first].strip()) >= DISTINCT:
                    self._first.add(first)
        self._at_start = sorted(self._first.union(self._whole, self._completing.get("", ())))

    def _classify(self, texts: Sequence[str]) -> None:
        whole = call_opening(self.names)
        splits = [(name[:end], f"{name[end:]}(") for name in self.names for end in range(len(name) + 1)]
        for token, text in enumerate(texts):
            if text.strip() in self.names:
                self._first.add(token)
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
        if not text.strip():
            return self._at_start
        end = text[-self.length :]
        beginnings = tuple(each for each in self._completing if _ends_with_word(end, each))
        if beginnings not in self._blocked:
            tokens = {token for each in beginnings for token in self._completing[each]}
            self._blocked[beginnings] = sorted(tokens.union(self._whole))
        return self._blocked[beginnings]


@lru_cache(maxsize=8)
def call_blocker(tokenizer: Any, names: tuple[str, ...]) -> CallBlocker:
    """The `CallBlocker` of these names. It is kept, since it looks at every token of the vocabulary."""
    return CallBlocker(tokenizer, names)


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
