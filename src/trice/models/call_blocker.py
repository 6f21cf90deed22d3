"""Which tokens may not be chosen where no tool may be called: those that would complete the opening of a call.

`CallBar` decides by the text so far, so that every other text can still be written: "don't" is not barred by a
tool named `t`, and `calculator` may be named. `CallBar.anywhere` is for engines that take one list for a whole
response: it also bars tokens that complete the opening only after some texts, such as a parenthesis without a space
before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from trice.formats.calls import opening
from trice.formats.prompt import decode

Bar = Callable[[str], Sequence[int]]
"""Given the text so far, the tokens that may not come next."""


class CallBar:
    """The tokens that complete `name(` of one of the tools `names`, in whatever way it is cut into tokens."""

    def __init__(self, tokenizer: Any, names: Sequence[str]) -> None:
        self.names = names
        self.length = max(map(len, names), default=0) + 1  # of a text's end that decides
        self._inside: list[int] = []  # which hold a whole opening after something else
        self._after: dict[str, list[int]] = {}  # by the beginning of an opening that they complete
        self._found: dict[tuple[str, ...], list[int]] = {}
        if names:
            self._sort(_texts(tokenizer))

    def _sort(self, texts: Sequence[str]) -> None:
        whole = opening(self.names)
        rests = [(name[:end], f"{name[end:]}(") for name in self.names for end in range(len(name) + 1)]
        for token, text in enumerate(texts):
            if "(" not in text:
                continue
            if whole.search(text, 1):
                self._inside.append(token)
            for begun, rest in rests:
                if text.startswith(rest):
                    self._after.setdefault(begun, []).append(token)

    @property
    def anywhere(self) -> list[int]:
        """The tokens that complete an opening after some text."""
        return sorted({*self._inside, *(token for tokens in self._after.values() for token in tokens)})

    def __call__(self, text: str) -> Sequence[int]:
        end = text[-self.length :]
        begun = tuple(each for each in self._after if _ends(end, each))
        if begun not in self._found:
            tokens = {token for each in begun for token in self._after[each]}
            self._found[begun] = sorted(tokens.union(self._inside))
        return self._found[begun]


def _ends(text: str, begun: str) -> bool:
    """Whether a text ends with the beginning of a call, at the beginning of a word."""
    if not text.endswith(begun):
        return False
    before = text[: len(text) - len(begun)][-1:]
    return not (before.isascii() and (before.isalnum() or before == "_"))


def _texts(tokenizer: Any) -> list[str]:
    """What each token adds to a text; SentencePiece drops a space at the start."""
    (first,) = tokenizer(".", add_special_tokens=False)["input_ids"][-1:]
    before = decode(tokenizer, [first])
    texts = tokenizer.batch_decode(
        [[first, token] for token in range(len(tokenizer))], skip_special_tokens=True
    )
    return [text[len(before) :] if text.startswith(before) else text for text in texts]
