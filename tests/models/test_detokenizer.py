"""The text of growing responses: at every length what the tokenizer decodes all ids to, in time that grows with the
length and not with its square."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from families import tokenizer
from trice.formats.prompt import load_template
from trice.models.detokenizer import Detokenizer, tail
from trice.models.engine import GenerationSettings
from trice.tools.calculator import Calculator

KINDS = ("qwen", "glm", "gemma", "llama2", "mistral", "wordpiece", "clean")
WORDS = "Tom has 12 apples. “Où?” — naïve, 日本語 👩‍👩‍👧 don't … ነው ½ calculator(12+30) "


def some_tokenizer(kind: str) -> Any:
    if kind == "wordpiece":
        return word_pieces()
    if kind == "clean":  # removes spaces before punctuation from what a BPE decodes
        made = tokenizer("qwen", clean_up_tokenization_spaces=True)
        made.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = True
        return made
    return tokenizer(kind)


def word_pieces() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[UNK]", ".", ",", "'", "?", "!", "##s", "##ing", "n", "t", "not", "do", "'s", "'ve", "m", "a"]
    plain = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}))
    plain.pre_tokenizer, plain.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="[UNK]", eos_token="[UNK]", clean_up_tokenization_spaces=True
    )


def ids_of(made: Any, kind: str, draw: random.Random) -> list[int]:
    """Random ids, ids of real text, and real text with random ids in it."""
    count = len(made)
    if kind == "random":
        return [draw.randrange(count) for _ in range(120)]
    told = "".join(draw.choice(WORDS.split(" ")) + draw.choice([" ", "", "\n", "  "]) for _ in range(60))
    ids: list[int] = made(told, add_special_tokens=False)["input_ids"]
    return ids if kind == "text" else [i if draw.random() < 0.9 else draw.randrange(count) for i in ids]


@pytest.mark.parametrize("kind", KINDS)
def test_at_every_length_the_text_is_that_of_all_ids(kind: str) -> None:
    made, draw = some_tokenizer(kind), random.Random(0)
    for number in range(15):
        ids = ids_of(made, ("random", "text", "mixed")[number % 3], draw)
        grown = Detokenizer(made)
        before = ""
        for length, token in enumerate(ids, start=1):
            whole = made.decode(ids[:length], skip_special_tokens=True)
            assert grown.add(token) == whole, (kind, number, length)
            assert whole[: grown.unchanged] == before[: grown.unchanged]
            before = whole
        end = tail(made, ids, 20)
        assert before.endswith(end[-20:])
        assert len(end) >= min(20, len(before))


class Counting:
    """A tokenizer that counts the ids it decodes."""

    def __init__(self, made: Any) -> None:
        self.made, self.decoded = made, 0

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        self.decoded += len(ids)
        text: str = self.made.decode(ids, **options)
        return text

    def convert_ids_to_tokens(self, token: int) -> Any:
        return self.made.convert_ids_to_tokens(token)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_decoded_grows_with_the_length(kind: str) -> None:
    counting = Counting(some_tokenizer(kind))
    ids = ids_of(counting.made, "random" if kind == "wordpiece" else "text", random.Random(1)) * 20
    grown = Detokenizer(counting)
    for token in ids[:2000]:
        grown.add(token)
    assert counting.decoded < 100 * min(2000, len(ids))
    assert grown.text == counting.made.decode(ids[:2000], skip_special_tokens=True)


def told_by_pieces(settings: GenerationSettings, pieces: Sequence[str]) -> str | None:
    text = ""
    for piece in pieces:
        seen, text = len(text), text + piece
        over = settings.finish(text, seen)
        if over is not None:
            return over
    return None


@pytest.mark.parametrize("opened", [False, True])
def test_a_response_is_over_at_the_same_place_however_it_comes(opened: bool) -> None:
    parts = [
        "calculator",
        "(",
        "1+",
        "2",
        ")",
        "\n",
        "Question:",
        "Quest",
        " ",
        "5",
        "f(",
        "\n\n",
        "calc",
        "ion:",
    ]
    settings = GenerationSettings(
        load_template("plain"), parsers={"calculator": Calculator().parse}, task_tools=("calculator",),
        tool_choice="required" if opened else "auto",
    )  # fmt: skip
    draw, over = random.Random(0), 0
    for _ in range(600):
        pieces = [draw.choice(parts) for _ in range(draw.randrange(1, 25))]
        by_character = told_by_pieces(settings, "".join(pieces))
        assert told_by_pieces(settings, pieces) == by_character == settings.finish("".join(pieces))
        over += by_character is not None
    assert 100 < over < 600


def test_a_call_ends_a_response_in_the_middle_of_a_token() -> None:
    settings = GenerationSettings(load_template("plain"), parsers={"calculator": Calculator().parse})
    assert settings.finish("It is calculator(1+2).\nSo", 18) == "It is calculator(1+2)"
    assert settings.truncate("calculator(1+2). calculator(3)") == "calculator(1+2)"


def test_parentheses_cost_no_more_in_a_long_response() -> None:
    """2,000 tokens with a parenthesis in each: what a call is looked for in does not grow."""
    read = 0

    def parse(text: str) -> dict[str, Any]:
        nonlocal read
        read += len(text)
        raise ValueError("never")

    settings = GenerationSettings(load_template("plain"), parsers={"f": parse})
    text = ""
    for _ in range(4000):
        seen, text = len(text), text + "f(1) "
        assert settings.finish(text, seen) is None
    assert read < 4000 * 20


def test_a_call_late_in_a_response_is_found() -> None:
    settings = GenerationSettings(load_template("plain"), parsers={"calculator": Calculator().parse})
    before = "so " * 3000  # longer than the part of the end that is looked at first
    assert settings.finish(f"{before}calculator(1+2) and", len(before)) == f"{before}calculator(1+2)"
