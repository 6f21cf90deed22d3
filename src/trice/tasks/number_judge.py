"""Reading numbers out of text, and deciding whether two are the same.

Covers decimals, negatives, percent and currency signs, fractions and mixed numbers (also `½` and LaTeX's `\\frac`),
scientific notation (`1e3`, `3 × 10^4`), and thousands separated by commas (also Indian: `1,00,000`), apostrophes or
blanks. Digits after a blank belong to a number where every group after the first has three: "12 345" is 12345. The
marks of citations after a number (`18 [1]`) are not numbers.
Does not cover number words, digits other than 0 to 9 and their full-width forms, or commas as decimal points.
Nothing is evaluated: `2^3` ends in 3.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import partial
from typing import Any

import regex

MAX_DIGITS = 50  # of one number; what is longer is babble
WINDOW = 400  # characters up to the last digit of a text that are read: more than any number of MAX_DIGITS
TAIL = 8  # characters after it that can belong to the number: a closing brace, an exponent, a percent sign
CENT = Decimal("0.01")
FRACTION = Context(prec=28)  # digits of a fraction's value
EXACT = Context(prec=MAX_DIGITS + 10, rounding=ROUND_HALF_EVEN)

VULGAR = "¼-¾⅐-⅞"
DIGITS = "0123456789０１２３４５６７８９¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
NFKC = partial(unicodedata.normalize, "NFKC")
THIN = "\u2009"  # replaces every blank that does not break a line
SAME = str.maketrans(
    dict.fromkeys("‐‑−–﹣－", "-")
    | dict.fromkeys("\u00a0\u2007\u202f", THIN)
    | dict.fromkeys("’＇", "'")
    | dict.fromkeys("⁄∕", "/")
    | dict(zip("０１２３４５６７８９", "0123456789", strict=True))
)


def _fraction(match: regex.Match[str]) -> str:
    whole = f"{match['whole'].strip()} " if match["whole"] else ""
    return f"{match['minus'] or ''}{whole}{match['top']}/{match['bottom']}"


REWRITTEN: list[tuple[regex.Pattern[str], Any]] = [
    (regex.compile(r"\{,\}"), ","),
    (regex.compile(r"\\!"), ""),
    (regex.compile(r"\\[,;:]"), THIN),
    (regex.compile(r"\\([$%\p{Sc}])"), r"\1"),
    (
        regex.compile(
            r"""(?P<whole>[0-9][ ]?)? \\[dtc]?frac [ ]?
                (?: \{[ ]?(?P<minus>-)?(?P<top>[0-9]+)[ ]?\} | (?P<top>[0-9]) )
                [ ]? (?: \{[ ]?(?P<bottom>[0-9]+)[ ]?\} | (?P<bottom>[0-9]) )""",
            regex.VERBOSE,
        ),
        _fraction,
    ),
    (
        regex.compile(rf"(?P<blank>(?<=[0-9])[ {THIN}]?)?(?P<sign>[{VULGAR}])"),
        lambda match: ("" if match["blank"] is None else " ") + NFKC(match["sign"]).replace("⁄", "/"),
    ),
    (regex.compile(r"(?<=10)[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+"), lambda match: "^" + match[0].translate(SUPERSCRIPT)),
    (regex.compile(r"(?<=[A-Za-z}])\^(?:\{-?[0-9]+\}|-?[0-9]+)"), ""),  # the exponent of a unit: cm^2
]
MARKS = r"\[\^?[0-9]{1,3}(?:,[ ]?[0-9]{1,3})*\]"
CITATIONS = regex.compile(
    rf"(?: (?<=[0-9%])\.?[ ]? | (?<=\p{{L}})[.,]? ) {MARKS} (?: [ ]? {MARKS} )*", regex.VERBOSE
)

NUMBER = regex.compile(
    r"""(?: (?P<minus> (?<![\w)%\]}])- )? (?: [A-Z]{0,3} \p{Sc} [ \u2009]? )?     # "10-3" ends in 3
          | (?<![0-9]) \p{Sc} [ \u2009]? (?P<minus>-) )
        (?: (?: (?P<whole>[0-9]+) [ \u2009] )? (?P<top>[0-9]+) / (?P<bottom>[0-9]+)
          | (?P<plain> (?: [1-9][0-9]{0,2} (?P<between>[,' \u2009]) [0-9]{3} (?: (?P=between) [0-9]{3} )* (?![0-9])
                         | [0-9]{1,2} (?:,[0-9]{2})+ ,[0-9]{3} (?![0-9])
                         | [0-9]+ ) (?:\.[0-9]+)?
                     | (?<![\w.])\.[0-9]+ )
            (?: [eE] (?P<power>[+-]?[0-9]{1,3}) (?!\w)
              | [ \u2009]? (?: [×x*·] | \\times | \\cdot ) [ \u2009]?
                10 (?: \^ | \*\* ) \{? (?P<power>[+-]?[0-9]{1,3}) \}? (?!\w) )? )""",
    regex.VERBOSE,
)
TORN = regex.compile(r"[.,:/'-]")  # between two numbers: the second is no number by itself
AROUND = regex.compile(r"[ \u2009]?(?:%|\p{Sc})?[ \u2009]?\.?")  # what may follow a text that is a number


def read_number(text: str) -> Decimal | None:
    """The last number of a text; None if there is none, or if it has more than MAX_DIGITS digits.

    `$1,234.50` is 1234.50, `25%` is 25, `-3/4` is -0.75, `1 1/2` is 1.5. The time taken is bounded by finding
    the last digit and reading only the characters around it.
    """
    found = _numbers(text)
    return _value(found[-1]) if found else None


def is_torn(text: str) -> bool:
    """Whether the last number of a text is a part of something else: of `1.234,56`, a time, a date, a range."""
    found = _numbers(text)
    between = found[-1].string[found[-2].end() : found[-1].start()] if len(found) > 1 else ""
    return bool(TORN.fullmatch(between))


def is_number(text: str) -> bool:
    """Whether a text is a number and nothing else but a currency or percent sign."""
    if len(text) > WINDOW:
        return False
    read = _rewritten(text.strip())
    match = NUMBER.match(read)
    return bool(match and _value(match) is not None and AROUND.fullmatch(read, match.end()))


def same_number(a: str, b: str) -> bool:
    """Whether the last numbers of two texts are equal after rounding to 2 decimals, halves to even as in
    Python's `round`. False where either has none."""
    first, second = read_number(a), read_number(b)
    if first is None or second is None:
        return False
    return EXACT.quantize(first, CENT) == EXACT.quantize(second, CENT)


def _numbers(text: str) -> list[regex.Match[str]]:
    """The numbers in the last WINDOW characters up to the last digit."""
    end = max(map(text.rfind, DIGITS)) + 1
    read = _rewritten(text[max(0, end - WINDOW) : end + TAIL]) if end else ""
    return list(NUMBER.finditer(CITATIONS.sub("", read))) or list(NUMBER.finditer(read))


def _rewritten(text: str) -> str:
    text = text.translate(SAME)
    for pattern, replacement in REWRITTEN:
        text = pattern.sub(replacement, text)
    return text


def _value(match: regex.Match[str]) -> Decimal | None:
    """The number's value; None if it has too many digits."""
    if sum(character.isdigit() for character in match[0]) > MAX_DIGITS:
        return None
    value = _plain(match) if match["plain"] else _quotient(match)
    if match["power"] and sum(character.isdigit() for character in f"{value:f}") > MAX_DIGITS:
        return None
    return value.copy_negate() if match["minus"] else value


def _plain(match: regex.Match[str]) -> Decimal:
    digits = regex.sub(rf"[,' {THIN}]", "", match["plain"])
    return Decimal(f"{digits}e{match['power'] or 0}")


def _quotient(match: regex.Match[str]) -> Decimal:
    bottom = Decimal(match["bottom"])
    if not bottom:
        return bottom  # "3/0" is no fraction: its last number is 0
    fraction = FRACTION.divide(Decimal(match["top"]), bottom)
    return FRACTION.add(Decimal(match["whole"] or 0), fraction)


def check(answers: Sequence[str]) -> None:
    """Raise ValueError where a gold answer cannot be read as a number."""
    for answer in answers:
        if read_number(answer) is None:
            raise ValueError(f"'{answer[:40]}' is not a number")
        if is_torn(answer):
            raise ValueError(
                f"'{answer[:40]}' is not one number: decimals take a point; no times, dates or ranges"
            )
