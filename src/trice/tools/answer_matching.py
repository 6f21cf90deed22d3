"""Whether a text contains an answer: comparison of texts by whole words.

The judge of answers in words, the label stage and the search tools share this definition. Numbers are compared as
words; `trice.tasks.number_judge` compares their values.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import regex

_UNIFIED_MARKS = str.maketrans(dict.fromkeys("’‘‛ʼʻ`´′＇", "'") | dict.fromkeys("‐‑‒–—―−﹘﹣－", "-"))
_WORD_CHARACTERS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_LETTER = rf"[[\p{{L}}\p{{N}}\p{{M}}]--[{_WORD_CHARACTERS}]]"
_WORD = regex.compile(
    rf"""(?<!{_LETTER}) {_LETTER} [+\#]++ (?!{_LETTER})    # C++, C#, A+
       | (?: (?<![\p{{L}}\p{{N}}\p{{M}})\]%]) - )?             # "10-3" ends in 3
         (?: [0-9]{{1,3}} (?:,[0-9]{{3}})+ (?![0-9]) | [0-9]+ ) (?:\.[0-9]+)? {_LETTER}*
       | [{_WORD_CHARACTERS}] \p{{M}}*
       | {_LETTER}+ (?:'{_LETTER}+)*""",
    regex.VERBOSE | regex.VERSION1,
)
_FORMAT = regex.compile(r"\p{Cf}+")  # soft hyphens, zero-width characters


def normalise(text: str) -> str:
    """Text in NFKC, case folded, with single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def contains_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether one of the answers occurs in a text as whole words, regardless of punctuation.

    A word with an apostrophe matches as a whole and by its parts of two letters or more: "Paris" is in "Paris's"
    and "Italie" in "l'Italie", but "D" is not in "I'd"."""
    found = _WORD.findall(_unified(text))
    parts = [part for word in found for part in _parts(word)]
    readings = {f" {' '.join(map(_without_marks, found))} ", f" {' '.join(map(_without_marks, parts))} "}
    golds = (" ".join(words(answer)) for answer in answers)
    return any(f" {gold} " in reading for gold in golds if gold for reading in readings)


def words(text: str) -> list[str]:
    """The words of a text, normalised for comparison: NFKC, case folded, without punctuation, quotes and
    apostrophes. Accents are kept. A number is one word with its sign and decimals, without thousands separators.
    "C++" and "C#" are not "C".

    In scripts that are written without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan) and in
    Korean, where particles follow a noun without one, each character is a word."""
    return [_without_marks(word) for word in _WORD.findall(_unified(text))]


def _unified(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text.translate(_UNIFIED_MARKS)).casefold()
    return str(_FORMAT.sub("", unicodedata.normalize("NFKC", folded)))


def _without_marks(word: str) -> str:
    return word.replace("'", "").replace(",", "")


def _parts(word: str) -> list[str]:
    return [part for part in word.split("'") if len(part) > 1] if "'" in word else [word]
