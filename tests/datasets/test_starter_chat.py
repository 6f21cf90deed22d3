"""The starter set for native tool calls: its four kinds, its gold calls, and its parts."""

from __future__ import annotations

import pytest

from trice.datasets import load
from trice.datasets.expressions import operations
from trice.errors import InputError
from trice.tools.calculator import Calculator


@pytest.mark.parametrize(
    ("expression", "turns"),
    [
        ("3*4", [["3*4"]]),
        ("12*19-45", [["12*19"], ["228-45"]]),
        ("3*4+5*6", [["3*4", "5*6"], ["12+30"]]),
        ("(1+2+3)/4", [["1+2"], ["3+3"], ["6/4"]]),
        ("2.5*4", [["2.5*4"]]),
        ("10/4*2", [["10/4"], ["2.5*2"]]),
        ("10/3", []),  # no finite decimal
        ("3-5", []),  # negative
        ("1/0", []),
        ("7", []),
        ("", []),
    ],
)
def test_an_expression_becomes_single_operations_by_turn(expression: str, turns: list[list[str]]) -> None:
    assert operations(expression) == turns


def test_the_four_kinds_have_the_calls_that_answer_them() -> None:
    train, test, dropped = load("starter-chat", train=200, test=80)
    assert dropped == []
    calculator = Calculator()
    for question in (*train, *test):
        assert question.gold_calls
        assert question.model_extra
        kind = question.model_extra["kind"]
        names = [[call.name for call in turn] for turn in question.gold_calls]
        results = [
            [calculator.execute(**call.arguments) for call in turn if call.name == "calculator"]
            for turn in question.gold_calls
        ]
        if kind == "problem":
            assert names == [["calculator"]]
            assert results == [question.answers]
        elif kind == "fact":
            assert names == [["QA"]]
            assert question.gold_calls[0][0].arguments == {"question": question.input}
        elif kind == "both":
            assert names == [["calculator", "QA"]]
            assert all(answer.startswith(f"{results[0][0]} and ") for answer in question.answers)
            assert question.gold_calls[0][1].arguments["question"] in question.input
        else:
            assert len(names) >= 2
            assert results[-1] == question.answers
            # each later call contains a result of an earlier turn
            earlier = {result for turn in results[:-1] for result in turn}
            last = question.gold_calls[-1][0].arguments["expression"]
            assert any(result in last for result in earlier)
    kinds = [question.model_extra["kind"] for question in train[:8] if question.model_extra]
    assert kinds == ["problem", "fact", "both", "steps"] * 2


def test_the_parts_share_no_template_and_no_question() -> None:
    train, test, _ = load("starter-chat")
    assert (len(train), len(test)) == (800, 200)
    templates = [{(row.model_extra or {}).get("template") for row in part} - {None} for part in (train, test)]
    assert not templates[0] & templates[1]
    texts = [row.input for row in (*train, *test)]
    assert len(set(texts)) == len(texts)
    assert load("starter-chat", train=12, test=4)[0] == train[:12]
    with pytest.raises(InputError, match="2000 train questions wanted; it makes 0 to 1600"):
        load("starter-chat", train=2000)
