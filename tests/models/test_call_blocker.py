"""Under tool choice none, no response holds the opening of a call, and nothing else is blocked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from families import save
from trice.formats import paper
from trice.formats.paper import call_opening
from trice.formats.prompt import decode, load_template
from trice.models.batching import EncodedPrompt
from trice.models.engine import Generated, GenerationSettings, Prompt
from trice.models.generation import generate
from trice.models.local import LocalModel, load
from trice.models.sampling import Sampling
from trice.stages.model_spec import ModelSpec, open_engine
from trice.types import Outcome

NAMES = ("a", "Question", "n", "er", "calculator")  # what tiny random models write now and then


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LocalModel:
    return load(str(folder), device="cpu", dtype="float32")


def settings(sampling: Sampling, **options: object) -> GenerationSettings:
    parsers = dict.fromkeys(NAMES, lambda text: {"input": text})
    return GenerationSettings(load_template("plain"), sampling, (), parsers, NAMES, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(160, temperature=1.5, samples=6),
        Sampling(160),
        Sampling(60, beams=4, samples=2),
        Sampling(60, temperature=1.5, beams=4, samples=4),
    ],
    ids=["samples", "greedy", "beams", "drawn-beams"],
)
def test_no_response_holds_an_opening_and_texts_without_one_are_as_without_the_bar(
    loaded: LocalModel, sampling: Sampling
) -> None:
    bar = settings(sampling, tool_choice="none").call_blocker(loaded.tokenizer)
    begins = call_opening(NAMES)
    asks = [
        EncodedPrompt(
            loaded.tokenizer(f"What is {n}+{n * n}?")["input_ids"], str(n), tuple(range(sampling.samples))
        )
        for n in range(12)
    ]

    def texts(**options: Any) -> dict[tuple[int, int], Generated]:
        return {
            (number, sample): each
            for number, found in generate(loaded, asks, sampling, **options)
            for sample, each in found.items()
        }

    barred = texts(suppress=bar)
    assert not [each for each in barred.values() if begins.search(each.text)]
    assert max(len(each.text) for each in barred.values()) > 20
    if sampling.beams == 1 and not sampling.temperature:  # a draw depends on the mass that the bar removes
        free = texts()
        first = {*bar("")}
        without = {
            key
            for key, each in free.items()
            if not begins.search(each.text) and not {*(each.tokens or [])[:1]} & first
        }
        assert without
        assert {key: barred[key].text for key in without} == {key: free[key].text for key in without}


def test_the_bar_is_exactly_the_tokens_that_complete_an_opening(loaded: LocalModel) -> None:
    tokenizer = loaded.tokenizer
    bar, begins = settings(Sampling(), tool_choice="none").call_blocker(tokenizer), call_opening(NAMES)
    for text in (
        "It is",
        "I do",
        "calculator",
        "my_calculator",
        "calculato",
        "Question",
        "x + 3",
        "a",
        "ba",
    ):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        barred = set(bar(decode(tokenizer, ids)))
        expected = {
            token for token in range(len(tokenizer)) if begins.search(decode(tokenizer, [*ids, token]))
        }
        assert barred == expected, text
        assert expected <= set(bar.anywhere)
    (only,) = tokenizer("(", add_special_tokens=False)["input_ids"][-1:]
    assert only in bar("see calculator")
    assert only not in bar("see my_calculator")
    assert only not in bar("see it")


def test_no_text_begins_with_a_name_or_the_first_token_of_one(loaded: LocalModel) -> None:
    """`calculator` alone is nearly always followed by a parenthesis, so it is no way to begin an answer."""
    tokenizer = loaded.tokenizer
    bar, begins = settings(Sampling(), tool_choice="none").call_blocker(tokenizer), call_opening(NAMES)
    texts = {token: decode(tokenizer, [token]) for token in range(len(tokenizer))}
    openings = {token for token, text in texts.items() if begins.search(text)}
    names = {token for token, text in texts.items() if text.strip() in NAMES}
    spelled = (tokenizer(text, add_special_tokens=False)["input_ids"] for n in NAMES for text in (n, f" {n}"))
    first = {next(token for token in ids if texts[token].strip()) for ids in spelled}
    first = {
        token for token in first if len(texts[token].strip()) >= 3
    }  # other words begin with shorter ones
    assert set(bar("")) == set(bar(" \n")) == openings | names | first
    assert not (names & set(bar("It is")))


def test_endings_of_words_are_free(loaded: LocalModel) -> None:
    """A tool named `t` bars no "don't", and no token at all but before a parenthesis."""
    bar = GenerationSettings(
        load_template("plain"), parsers={"t": dict}, task_tools=("t",), tool_choice="none"
    ).call_blocker(loaded.tokenizer)
    texts = {token: decode(loaded.tokenizer, [token]) for token in {*bar("I don'"), *bar("don't"), *bar("x")}}
    assert all("(" in text for text in texts.values())
    assert len(texts) < 20


def test_an_engine_answers_without_calls(folder: Path) -> None:
    engine = open_engine(ModelSpec(str(folder), device="cpu", dtype="float32"))
    how = settings(Sampling(80, temperature=1.5, samples=8), tool_choice="none")
    texts: list[str] = []
    prompts = [Prompt(str(n), "Add.", f"{n}+1?", tuple(range(8))) for n in range(6)]
    failures = engine.generate(
        prompts, how, lambda _, found: texts.extend(each.text for each in found.values())
    )
    assert failures == []
    assert len(texts) == 48
    assert {paper.parse(text, how.parsers).outcome for text in texts} == {Outcome.ANSWERED}
