"""Choices among given responses: likelihoods of the plain model, and measures worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trice.errors import InputError
from trice.models.local import LocalModel, load
from trice.stages.choices import Choice, choose, measure_choices
from trice.types import Message, Question

CALL = {"name": "stock", "arguments": {"product": "chair"}}
TOOL = {"type": "function", "function": {"name": "stock", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def loaded(tiny_model: Callable[[str], Path]) -> LocalModel:
    return load(str(tiny_model("llama")), device="cpu", dtype="float32")


def question(id: str = "q-1", right: str = "tool_call", **fields: Any) -> Question:
    row = {
        "id": id,
        "messages": [{"role": "user", "content": "How many?"}],
        "tools": [TOOL],
        "choices": {"direct": "There are 7.", "tool_call": CALL},
        "right_choice": right,
    }
    return Question.model_validate(row | fields)


def test_the_log_probabilities_are_those_of_the_plain_model_without_the_end_token(loaded: LocalModel) -> None:
    (found,) = choose(loaded, [question()])
    format = loaded.chat_format()
    prompt = format.prompt([Message(role="user", content="How many?")], question().tools or [])
    for name, text in {
        "direct": "There are 7.",
        "tool_call": '<tool_call>\n{"name": "stock", "arguments": {"product": "chair"}}\n</tool_call>',
    }.items():
        ids = format.tokenizer(text, add_special_tokens=False)["input_ids"]
        logps = loaded.model(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
        expected = sum(float(logps[len(prompt) - 1 + at, token].detach()) for at, token in enumerate(ids))
        assert found.log_probs[name] == pytest.approx(expected, rel=1e-4)
        assert found.characters[name] == len(text)


def test_long_prompts_and_missing_fields_are_named(loaded: LocalModel) -> None:
    with pytest.raises(
        InputError, match=r"question 'q-2': .* tokens with the response 'direct'.*reads at most"
    ):
        choose(loaded, [question(), question("q-2", messages=[{"role": "user", "content": "word " * 3000}])])
    with pytest.raises(InputError, match="question 'q-1': expected 'messages', 'choices' and 'right_choice'"):
        choose(loaded, [Question(id="q-1", input="How many?", answer="7")])
    assert choose(loaded, []) == []


def choice(right: str, chosen: str, *, tools: bool = True) -> Choice:
    names = ("direct", "tool_call", "request_for_info", "cannot_answer")
    log_probs = {name: -10.0 if name == chosen else -20.0 for name in names}
    asked = question(right=right, tools=[TOOL] if tools else [])
    return Choice(asked, log_probs, dict.fromkeys(names, 10))


def test_measures_by_hand() -> None:
    found = measure_choices(
        [
            choice("tool_call", "tool_call"),
            choice("tool_call", "tool_call"),
            choice("request_for_info", "tool_call"),
            choice("cannot_answer", "cannot_answer"),
            choice("cannot_answer", "direct", tools=False),
            choice("cannot_answer", "tool_call", tools=False),
            choice("cannot_answer", "cannot_answer", tools=False),
        ]
    )
    assert (found.accuracy.count, found.accuracy.total) == (4, 7)
    # F1: tool_call 2·2/(2·2 + 2 + 0), cannot_answer 2·2/(2·2 + 0 + 2), the others 0
    assert found.macro_f1 == pytest.approx((4 / 6 + 0 + 4 / 6 + 0) / 4)
    assert (found.tool_hallucination.count, found.tool_hallucination.total) == (1, 3)
    assert found.counts["request_for_info", "tool_call"] == 1


def test_a_kind_that_is_neither_right_nor_chosen_does_not_count() -> None:
    assert measure_choices([choice("tool_call", "tool_call")]).macro_f1 == 1


def test_the_likelihood_is_divided_by_the_characters() -> None:
    long = Choice(question(), {"direct": -12.0, "tool_call": -30.0}, {"direct": 10, "tool_call": 40})
    assert (long.chosen(), long.chosen(normalized=False)) == ("tool_call", "direct")
    assert measure_choices([long]).accuracy.value == 1
    assert measure_choices([long], normalized=False).accuracy.value == 0
