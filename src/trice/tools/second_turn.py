"""The second turn, in which the model reads a tool's output, and the search for answers in passages.

The instruction and the form of the context are part of the published format (evaluate/evaluate.py of
github.com/zjunlp/TRICE has them for translated questions; passages are written in the same form here).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import regex

from trice.formats.paper import visible
from trice.types import Question

SECOND_TURN_INSTRUCTION = "Given a context, please answer the question."
SENTENCE_INSTRUCTION = "Answer the question in one sentence, using the given context."
SECOND_TURN = "second-turn"  # the task of a second turn's question
CONTEXT = "Context: "
ASKED = "\nQuestion: "


def second_turn_question(question: Question, context: str, asked: str, turn: int = 1) -> Question:
    """The question of a second turn: `asked` with a context. `turn` numbers the second turns of one output."""
    form = {
        "task": SECOND_TURN,
        "instruction": SECOND_TURN_INSTRUCTION,
        "input": with_context(context, asked),
    }
    names = {"id": f"{question.id}/{turn}", "turn": turn, "first_turn": question.id}
    return question.model_copy(update=names | form)


def sentence_question(question: Question, result: str) -> Question:
    """The question with a tool's result as its context, to be answered in a sentence."""
    asked = second_turn_question(question, result, question.input)
    return asked.model_copy(update={"instruction": SENTENCE_INSTRUCTION})


def with_context(context: str, asked: str) -> str:
    """The input of a question that has a context; the inverse of `split_context`."""
    return f"{CONTEXT}{context}{ASKED}{asked}"


def split_context(input: str) -> tuple[str, str]:
    """The context of a question, or an empty string, and the question without it."""
    context, found, asked = input.rpartition(ASKED)
    return (context.removeprefix(CONTEXT), asked) if found else ("", input)


def final_answer(turns: Sequence[str]) -> str:
    """The answer of the second turns: the first that is not empty, without its reasoning. It does not depend on the
    gold answers. Grading, chat and the server all use this function."""
    return next((answer for turn in turns if (answer := visible(turn).strip())), "")


def normalise(text: str) -> str:
    """Text in NFKC, case folded, with single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def contains_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether one of the answers occurs in a text as whole words, regardless of punctuation.

    A word with an apostrophe matches as a whole and by its parts of two letters or more: "Paris" is in "Paris's"
    and "Italie" in "l'Italie", but "D" is not in "I'd"."""
    found = _WORD.findall(_unified(text))
    parted = [part for word in found for part in _apart(word)]
    readings = {f" {' '.join(map(_bare, found))} ", f" {' '.join(map(_bare, parted))} "}
    golds = (" ".join(words(answer)) for answer in answers)
    return any(f" {gold} " in reading for gold in golds if gold for reading in readings)


def words(text: str) -> list[str]:
    """The words of a text, normalised for comparison: NFKC, case folded, without punctuation, quotes and
    apostrophes. Accents are kept. A number is one word with its sign and decimals, without thousands separators.
    "C++" and "C#" are not "C".

    In scripts that are written without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan) and in
    Korean, where particles follow a noun without one, each character is a word."""
    return [_bare(word) for word in _WORD.findall(_unified(text))]


_SAME = str.maketrans(dict.fromkeys("’‘‛ʼʻ`´′＇", "'") | dict.fromkeys("‐‑‒–—―−﹘﹣－", "-"))
_ALONE = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_LETTER = rf"[[\p{{L}}\p{{N}}\p{{M}}]--[{_ALONE}]]"
_WORD = regex.compile(
    rf"""(?<!{_LETTER}) {_LETTER} [+\#]++ (?!{_LETTER})    # C++, C#, A+
       | (?: (?<![\p{{L}}\p{{N}}\p{{M}})\]%]) - )?             # "10-3" ends in 3
         (?: [0-9]{{1,3}} (?:,[0-9]{{3}})+ (?![0-9]) | [0-9]+ ) (?:\.[0-9]+)? {_LETTER}*
       | [{_ALONE}] \p{{M}}*
       | {_LETTER}+ (?:'{_LETTER}+)*""",
    regex.VERBOSE | regex.VERSION1,
)
_FORMAT = regex.compile(r"\p{Cf}+")  # soft hyphens, zero-width characters


def _unified(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text.translate(_SAME)).casefold()
    return str(_FORMAT.sub("", unicodedata.normalize("NFKC", folded)))


def _bare(word: str) -> str:
    return word.replace("'", "").replace(",", "")


def _apart(word: str) -> list[str]:
    return [part for part in word.split("'") if len(part) > 1] if "'" in word else [word]
