"""Which cases are found in a run's responses, what kind each is, and how much of them goes into a page."""

from __future__ import annotations

from typing import Any

import pytest

from trice.report.cases import Cases, Kind, call_text, case_tables, change_kind, find_cases, question_text
from trice.report.html_page import MAX_ANSWERS, MAX_CASES, MAX_TEXT, MAX_TOTAL, case_data
from trice.report.run_reader import Run
from trice.types import Response

RIGHT, WRONG = True, False


def response(outcome: str, correct: bool, number: int = 0, argument: str = "1+1", **extra: Any) -> Response:
    """A graded response; a called one ran `calculator(argument)`, whose output was 2."""
    row: dict[str, Any] = {"id": f"A-{number}", "input": f"Question {number}?", "answer": "2"}
    if outcome == "called":
        row |= {"call": {"name": "calculator", "arguments": {"expression": argument}}}
        row |= {"execution": {"output": "2"}}
    return Response.model_validate(
        row | {"response": f"{outcome} {argument}", "outcome": outcome, "correct": correct} | extra
    )


ANOTHER = {"call": {"name": "other", "arguments": {"expression": "1+1"}}}
BEFORE_AND_AFTER = [
    (response("answered", WRONG), response("called", RIGHT), Kind.TO_CALL),
    (response("answered", RIGHT), response("called", RIGHT), None),
    (response("answered", WRONG), response("answered", RIGHT), None),
    (response("called", WRONG), response("called", RIGHT, argument="2+0"), Kind.ARGUMENTS),
    (response("called", WRONG), response("called", RIGHT, **ANOTHER), Kind.ARGUMENTS),
    (response("malformed", WRONG), response("called", RIGHT), Kind.ARGUMENTS),
    (response("called", RIGHT), response("called", RIGHT, argument="2+0"), None),
    (response("called", WRONG), response("answered", RIGHT), Kind.NOT_TO_CALL),
    (response("called", RIGHT), response("answered", RIGHT), Kind.NOT_TO_CALL),
    (response("malformed", WRONG), response("answered", RIGHT), Kind.NOT_TO_CALL),
    (response("called", WRONG, turns=["3"]), response("called", RIGHT, turns=["2"]), Kind.READING),
    (response("called", WRONG), response("called", RIGHT, execution={"output": "3"}), None),
    (response("called", RIGHT), response("answered", WRONG), Kind.ERROR),
    (response("answered", RIGHT), response("malformed", WRONG), Kind.ERROR),
    (response("called", WRONG), response("answered", WRONG), None),
]


@pytest.mark.parametrize(("before", "after", "kind"), BEFORE_AND_AFTER)
def test_the_kind_of_a_change(before: Response, after: Response, kind: Kind | None) -> None:
    assert change_kind(before, after) == kind


def test_a_question_may_have_several_kinds_along_the_stages() -> None:
    run = Run(
        results={
            "zero-shot": [response("answered", WRONG), response("answered", RIGHT, 1)],
            "stage-1": [response("called", WRONG), response("called", RIGHT, 1)],
            "stage-1.seed1": [response("called", RIGHT)],
            "both": [response("called", RIGHT, argument="2+0"), response("answered", WRONG, 1)],
            "always": [response("called", RIGHT, 2)],
        }
    )
    cases = find_cases(run)
    assert cases.conditions == ["zero-shot", "stage-1", "both", "always"]
    assert cases.stages == ["zero-shot", "stage-1", "both"]
    first, second, third = cases.found
    assert first.changes == [(Kind.ARGUMENTS, "stage-1", "both"), (Kind.TO_CALL, "zero-shot", "both")]
    assert second.changes == [(Kind.ERROR, "stage-1", "both"), (Kind.ERROR, "zero-shot", "both")]
    assert [case.needed for case in cases.found] == [True, False, None]
    assert list(third.responses) == ["always"]


def test_without_stage_1_the_base_model_is_compared_with_both() -> None:
    run = Run(results={"zero-shot": [response("answered", WRONG)], "both": [response("called", RIGHT)]})
    assert find_cases(run).found[0].changes == [(Kind.TO_CALL, "zero-shot", "both")]


def test_the_tables_show_a_few_of_each_kind_of_several_data_sets() -> None:
    rows = [(n, "AB"[n % 10 == 9]) for n in range(30)]
    base = [response("answered", n >= 25, n, dataset=name) for n, name in rows]
    last = [response("called", n < 25, n, dataset=name) for n, name in rows]
    tables = case_tables(find_cases(Run(results={"zero-shot": base, "both": last})))
    shown = [(*one.caption.partition(": ")[::2],) for one in tables]
    learned, error = "Learned to call (zero-shot → both)", "New error (zero-shot → both)"
    assert shown == [
        *((learned, f"Question {n}? — gold: 2 ({name})") for n, name in ((0, "A"), (9, "B"), (1, "A"))),
        *((error, f"Question {n}? — gold: 2 ({name})") for n, name in ((25, "A"), (29, "B"), (26, "A"))),
    ]
    assert [cell.text for cell in tables[0].rows[1]] == ["both", "called 1+1", "2", "right"]


def test_without_any_kind_the_first_questions_are_shown() -> None:
    few = find_cases(Run(results={"few-shot": [response("answered", RIGHT, n) for n in range(9)]}))
    assert [one.caption for one in case_tables(few)] == [f"Question {n}? — gold: 2 (A)" for n in range(3)]
    assert case_tables(find_cases(Run())) == []


def test_a_call_as_it_was_understood() -> None:
    assert call_text(response("called", RIGHT)) == "calculator(1+1)"
    several = {"call": {"name": "convert", "arguments": {"value": 3.5, "to": "km"}}}
    assert call_text(response("called", RIGHT, **several)) == "convert(value=3.5, to=km)"
    assert call_text(response("answered", RIGHT)) == ""


def conversation(*turns: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Messages with calls of the calculator, each turn a list of (expression, result)."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        calls = [{"name": "calculator", "arguments": {"expression": expression}} for expression, _ in turn]
        messages.append({"role": "assistant", "tool_calls": calls})
        messages += [{"role": "tool", "name": "calculator", "content": result} for _, result in turn]
    return messages


def test_all_calls_of_a_conversation_and_all_results_count() -> None:
    fields = {"completion": conversation([("1+1", "2"), ("3/0", "Error: division by zero")], [("2+2", "4")])}
    row = response("called", RIGHT, **fields)
    assert call_text(row) == "calculator(1+1), then calculator(3/0), then calculator(2+2)"
    assert row.results == ["2", "Error: division by zero", "4"]
    other = {"completion": conversation([("1+1", "2"), ("3/0", "Error: division by zero")])}
    assert change_kind(response("called", WRONG, **other), row) == Kind.ARGUMENTS
    assert change_kind(response("called", WRONG, **fields), row) == Kind.READING
    tables = case_tables(
        find_cases(Run(results={"zero-shot": [response("called", WRONG, **other)], "both": [row]}))
    )
    assert tables[0].rows[1][2].text == "2 | Error: division by zero | 4"
    run = Run(results={"zero-shot": [response("called", WRONG, **other)], "both": [row]})
    page = case_data(find_cases(run))
    shown = page["cases"][0]["responses"][1]
    assert page["texts"][shown["output"]] == "2\nError: division by zero\n4"
    assert "error" not in shown


def test_of_a_question_with_a_context_the_question_is_shown() -> None:
    row = response("answered", RIGHT, input="Context: long ago.\nQuestion: When?")
    assert question_text(row) == "… When?"


def many(count: int, **extra: Any) -> Cases:
    """Every tenth question has a kind."""
    base = [response("answered", WRONG, n, **extra) for n in range(count)]
    last = [response("called", n % 10 == 9, n, **extra) for n in range(count)]
    return find_cases(Run(results={"zero-shot": base, "both": last}))


def test_a_page_holds_so_many_cases_those_with_a_kind_first() -> None:
    data = case_data(many(MAX_CASES + 100))
    assert len(data["cases"]) == MAX_CASES
    assert data["left_out"] == 100
    assert sum(bool(case["changes"]) for case in data["cases"]) == (MAX_CASES + 100) // 10
    ids = [int(data["texts"][case["id"]].removeprefix("A-")) for case in data["cases"]]
    assert ids == sorted(ids)


def test_a_page_holds_so_much_text() -> None:
    run = Run(
        results={"both": [response("answered", RIGHT, n, response=f"{n}" + "x" * 10**6) for n in range(40)]}
    )
    texts = case_data(find_cases(run))["texts"]
    assert max(map(len, texts)) < MAX_TEXT + 60
    long = Run(
        results={
            "both": [
                response(
                    "answered", RIGHT, n, turns=[f"{n} {m}" + "x" * MAX_TEXT for m in range(MAX_ANSWERS)]
                )
                for n in range(300)
            ]
        }
    )
    data = case_data(find_cases(long))
    # A case takes about 20 turns of 2,000 characters: 40,000 of 8 million.
    assert 150 < len(data["cases"]) < 200
    assert data["left_out"] == 300 - len(data["cases"])
    assert sum(map(len, data["texts"])) < MAX_TOTAL + MAX_TEXT * 2 * MAX_ANSWERS
