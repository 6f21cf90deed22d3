"""Ranks BM25's candidates again by their two best sentences, since BM25 does not see where in a passage a word is.

A passage that has "largest", "planet" and "Solar System" in one sentence answers "largest planet in the solar system"
better than one that has them in four. A passage whose title the query names also gains. The weights were chosen on
training questions (docs/results.md has the measurements). Sentences are split at English punctuation; synonyms and
the order of words are not considered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from operator import mul

RANKING_VERSION = "sentences 1"  # part of the version of search results
CANDIDATES = 20  # of BM25 that are ranked again
SENTENCES = (1.5, 0.5)  # weights of the best sentence and of the second best, in addition to BM25's score
TITLE = 0.5  # weight of a title that the query names

Analyse = Callable[[str], list[str]]
_END = re.compile(r"(?<=[^\W_A-Z.])[.!?][\"')\]]*\s+(?=\S)")  # not after an initial, as in "J. K. Rowling"
_QUALIFIER = re.compile(r"\s*\(.*?\)")  # of a title, as in "Mercury (planet)"


def split_sentences(text: str) -> list[str]:
    """The sentences of a text."""
    starts = [0, *(end.end() for end in _END.finditer(text)), len(text)]
    parts = (text[start:end].strip() for start, end in pairwise(starts))
    return [part for part in parts if part]


def bonus(
    title: str, text: str, query: Sequence[str], weights: Mapping[str, float], analyse: Analyse
) -> float:
    """What a passage's score gains.

    Args:
        title: The passage's title, which belongs to each of its sentences.
        text: The passage's text.
        query: The analysed words of the query.
        weights: The query's words that count, with their inverse document frequencies.
        analyse: The analyser of the index.

    Returns:
        The weights of the words that each of the two best sentences has, times `SENTENCES`, and those of a title that
        the query names, times `TITLE`.
    """
    about = analyse(title)
    found = sorted(
        (
            sum(weights.get(word, 0.0) for word in {*about, *analyse(sentence)})
            for sentence in split_sentences(text)
        ),
        reverse=True,
    )
    name = analyse(_QUALIFIER.sub("", title))
    named = name and f" {' '.join(name)} " in f" {' '.join(query)} "
    title_weight = sum(weights.get(word, 0.0) for word in set(name)) if named else 0.0
    best: float = sum(map(mul, SENTENCES, found))
    return best + TITLE * title_weight
