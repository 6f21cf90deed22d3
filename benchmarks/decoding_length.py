"""The Python time per generated token, by the length of the response: incremental decoding and the plain method.

The plain method decodes all ids of a row for each new token and searches the whole text for a call or a stop
text. Rows are random ids of a small tokenizer; both methods must end with the same texts. The time of the
model's own step is not included.

    python benchmarks/decoding_length.py --rows 128 --lengths 256 512 1024 2048
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trice.formats.prompt import decode, load_template
from trice.models.engine import GenerationSettings, truncate_ids
from trice.tools.calculator import Calculator

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

Method = Callable[[Any, GenerationSettings, Sequence[int]], str]


def ours(tokenizer: Any, settings: GenerationSettings, ids: Sequence[int]) -> str:
    return truncate_ids(tokenizer, ids, settings.finish).text


def plain(tokenizer: Any, settings: GenerationSettings, ids: Sequence[int]) -> str:
    text = ""
    for length in range(1, len(ids) + 1):
        text = decode(tokenizer, ids[:length])
        over = settings.finish(text)
        if over is not None:
            return over
    return text


def timed(
    method: Method, tokenizer: Any, settings: GenerationSettings, rows: Sequence[Sequence[int]]
) -> tuple[float, list[str]]:
    """Microseconds for each token, and the texts."""
    started = time.perf_counter()
    texts = [method(tokenizer, settings, ids) for ids in rows]
    return (time.perf_counter() - started) / sum(map(len, rows)) * 1e6, texts


def main() -> None:
    from families import tokenizer as trained

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--plain-rows", type=int, default=8, help="Rows of the plain method.")
    parser.add_argument("--tokenizer", default="qwen", help="A family of tests/families.py.")
    args = parser.parse_args()
    tokenizer, draw = trained(args.tokenizer), random.Random(0)
    settings = GenerationSettings(
        load_template("plain"), parsers={"calculator": Calculator().parse}, task_tools=("calculator",)
    )
    # Words alone, so that no row ends before its length: a stop text or a call would hide the cost of the rest.
    words = [token for token in range(len(tokenizer)) if decode(tokenizer, [token]).strip().isalpha()]
    for length in args.lengths:
        rows = [draw.choices(words, k=length) for _ in range(args.rows)]
        mine, texts = timed(ours, tokenizer, settings, rows)
        theirs, expected = timed(plain, tokenizer, settings, rows[: args.plain_rows])
        assert texts[: args.plain_rows] == expected
        assert texts == [decode(tokenizer, row) for row in rows], "a row ended before its length"
        print(
            f"{length:5} tokens: ours {mine:6.1f} µs a token, plain {theirs:7.1f}, ratio {theirs / mine:5.1f}"
        )


if __name__ == "__main__":
    main()
