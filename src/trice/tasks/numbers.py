"""Reading numbers out of text, and telling whether two are the same.

Covers thousands separators, decimals, negatives, percent and currency signs, fractions and mixed numbers.
Does not cover number words, scientific notation, digits other than 0 to 9, or commas as decimal points.
"""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Context, Decimal

MAX_DIGITS = 50  # of one number; what is longer is babble
WINDOW = 200  # characters up to the last digit of a text that are read: more than any number of MAX_DIGITS
CENT = Decimal("0.01")
FRACTION = Context(prec=28)  # digits of a fraction's value
EXACT = Context(prec=MAX_DIGITS + 10, rounding=ROUND_HALF_EVEN)

NUMBER = re.compile(
    r"""(?P<minus> (?<![\w)%])[-−–] )?                  # "10-3" ends in 3
        [$€£]?
        (?: (?: (?P<whole>[0-9]+) [ ] )? (?P<top>[0-9]+) / (?P<bottom>[0-9]+)
          | (?P<plain> (?: [0-9]{1,3} (?:,[0-9]{3})+ (?![0-9]) | [0-9]+ ) (?:\.[0-9]+)?
                     | (?<![\w.])\.[0-9]+ ) )""",
    re.VERBOSE,
)


def _value(match: re.Match[str]) -> Decimal:
    if match["plain"]:
        return Decimal(match["plain"].replace(",", ""))
    bottom = Decimal(match["bottom"])
    if not bottom:
        return bottom  # "3/0" is no fraction: its last number is 0
    fraction = FRACTION.divide(Decimal(match["top"]), bottom)
    return FRACTION.add(Decimal(match["whole"] or 0), fraction)


def read_number(text: str) -> Decimal | None:
    """The last number of a text; None where there is none, or where it has more than MAX_DIGITS digits.

    `$1,234.50` is 1234.50, `25%` is 25, `-3/4` is -0.75, `1 1/2` is 1.5. The time taken is bounded by finding
    the last digit and reading only the characters just before it.
    """
    end = max(text.rfind(digit) for digit in "0123456789") + 1
    window = text[max(0, end - WINDOW) : end]
    numbers = list(NUMBER.finditer(window))
    if not numbers or sum(character.isdigit() for character in numbers[-1][0]) > MAX_DIGITS:
        return None
    value = _value(numbers[-1])
    return value.copy_negate() if numbers[-1]["minus"] else value


def same_number(a: str, b: str) -> bool:
    """Whether the last numbers of two texts are equal after rounding to 2 decimals, halves to even as in
    Python's `round`. False where either has none."""
    first, second = read_number(a), read_number(b)
    if first is None or second is None:
        return False
    return EXACT.quantize(first, CENT) == EXACT.quantize(second, CENT)
