"""The retriever of HotpotQA: the passages given with a question, searched by words; WikiSearch without any.

Does not cover more than the few passages of one question: those are scored one by one.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from trice.errors import InputError
from trice.tools import Tool
from trice.tools.passage_index import Passage
from trice.tools.second_turn import normalise
from trice.tools.wikisearch import PASSAGES, WikiSearch, format_passage
from trice.types import Question

K1, B = 1.2, 0.75  # BM25's usual constants (Robertson and Zaragoza, 2009)


class Retriever(WikiSearch):
    """`retriever(words)` gives the two best of the passages in the question's field `passages` (a list of
    `{"title", "text"}`)."""

    name = "retriever"
    description = "Returns the passages that fit the query best."

    def __init__(self, source: str | None = None, given: Sequence[Passage] = ()) -> None:
        super().__init__(source)
        self._own = tuple(given)

    @property
    def version(self) -> str | None:
        if not self._own:
            return super().version
        return hashlib.sha256(json.dumps(self._own).encode()).hexdigest()

    def check(self) -> None:
        """Raise InputError where WikiSearch would be searched and is not there."""
        if not self._own:
            super().check()

    def for_question(self, question: Question) -> Tool:
        """The retriever over the question's passages. Raises InputError where they are not of the form."""
        found: Any = (question.model_extra or {}).get("passages")
        if not found:
            return self
        try:
            given = [
                Passage(str(row.get("title") or ""), str(row["text"]))
                for row in found
                if row["text"] is not None and str(row["text"]).strip()
            ]
        except (AttributeError, KeyError, TypeError):
            raise InputError(f"{question.where}: field 'passages': not a list of title and text") from None
        return Retriever(self.source, given or [Passage("", "")])

    def find(self, query: str) -> list[str]:
        """The passages, best first; none where no word of the query is in any."""
        return (
            [format_passage(passage) for passage in _best(self._own, query)]
            if self._own
            else super().find(query)
        )


def _best(passages: Sequence[Passage], query: str) -> list[Passage]:
    """The passages with the highest BM25 score, those without any word of the query left out."""
    words = [Counter(_words(f"{passage.title} {passage.text}")) for passage in passages]
    average = sum(count.total() for count in words) / len(words) or 1
    scores = [0.0] * len(passages)
    for term in set(_words(query)):
        holding = sum(term in count for count in words)
        weight = math.log(1 + (len(words) - holding + 0.5) / (holding + 0.5))
        for place, count in enumerate(words):
            length = K1 * (1 - B + B * count.total() / average)
            scores[place] += weight * count[term] * (K1 + 1) / (count[term] + length)
    order = sorted(range(len(passages)), key=lambda place: -scores[place])
    return [passages[place] for place in order[:PASSAGES] if scores[place]]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", normalise(text))
