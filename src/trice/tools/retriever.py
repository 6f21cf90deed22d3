"""The retriever of HotpotQA: searches the passages of a question, or WikiSearch's source if it has none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from trice.errors import InputError
from trice.tools import Tool
from trice.tools.passage_index import Passage, PassageIndex, analyser
from trice.tools.sentence_ranking import RANKING_VERSION
from trice.tools.wikisearch import WikiSearch, format_passage
from trice.types import Question


class Retriever(WikiSearch):
    """`retriever(words)` returns the two best of the passages in the question's field `passages` (a list of
    `{"title", "text"}`)."""

    name = "retriever"
    description = "Returns the passages that fit the query best."

    def __init__(self, source: str | None = None, given: Sequence[Passage] = ()) -> None:
        super().__init__(source)
        self._given = tuple(given)

    @property
    def version(self) -> str | None:
        if not self._given:
            return super().version
        return hashlib.sha256(f"{RANKING_VERSION} {json.dumps(self._given)}".encode()).hexdigest()

    def check(self) -> None:
        """Raise InputError if the search engine or WikiSearch's source is missing."""
        if self._given:
            analyser()
        else:
            super().check()

    def for_question(self, question: Question) -> Tool:
        """The retriever over the question's passages. Raises InputError if they are not in the expected form."""
        rows: Any = (question.model_extra or {}).get("passages")
        if not rows:
            return self
        try:
            given = [
                Passage(str(row.get("title") or ""), str(row["text"]))
                for row in rows
                if row["text"] is not None and str(row["text"]).strip()
            ]
        except (AttributeError, KeyError, TypeError):
            raise InputError(
                f"{question.where}: field 'passages': not a list of objects with title and text"
            ) from None
        return Retriever(self.source, given or [Passage("", "")])

    def find(self, query: str) -> list[str]:
        """The passages, best first; none if no passage has a word of the query."""
        if not self._given:
            return super().find(query)
        return [format_passage(passage) for passage in self._index.search(query, self.passages)]

    @cached_property
    def _index(self) -> PassageIndex:
        return PassageIndex.in_memory(self._given)
