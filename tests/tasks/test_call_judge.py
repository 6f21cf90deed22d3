"""The judge of calls: the verdicts of the leaderboard's package on made-up cases, the reasons, and what it survives.

`benchmarks/bfcl_checker.py --freeze` writes the package's verdicts into the cases; null means that the package's
checker ends with an exception."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trice.datasets.bfcl import read_bfcl
from trice.messages import ExpectedCall
from trice.tasks.call_judge import Verdict, judge_calls
from trice.types import ToolCall

GROUPS = json.loads((Path(__file__).parent / "call_judge_cases.json").read_text())
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "limits": {"type": "array", "items": {"type": "number"}},
        "place": {"type": "object"},
        "stops": {"type": "array"},
    },
    "required": ["city"],
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "clock", "parameters": {}}},
]
BERLIN = ExpectedCall(name="weather", arguments={"city": ["Berlin"], "days": [3, ""]})


def weather(**arguments: Any) -> ToolCall:
    return ToolCall(name="weather", arguments=arguments)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"{group['category']}-{len(group['cases'])}")
def test_verdicts_are_those_of_the_package(group: dict[str, Any], tmp_path: Path) -> None:
    name = f"BFCL_v4_{group['category']}.json"
    row = {"id": "made", "question": [[{"role": "user", "content": "?"}]], "function": group["functions"]}
    (tmp_path / name).write_text(json.dumps(row))
    if group["answer"]:
        (tmp_path / "possible_answer").mkdir()
        answer = {"id": "made", "ground_truth": group["answer"]}
        (tmp_path / "possible_answer" / name).write_text(json.dumps(answer))
    (read,) = read_bfcl(tmp_path, group["category"])
    assert read.expected_calls is not None
    for case in group["cases"]:
        calls = [ToolCall(**call) for call in case["calls"]]
        verdict = judge_calls(calls, read.expected_calls, read.tools or [])
        assert verdict.correct == bool(case["correct"]), (case, verdict)
        assert bool(verdict.reason) != verdict.correct


REASONS = [
    ([], "no call, but 1 is expected"),
    ([weather(city="Berlin"), weather(city="Berlin")], "2 calls, but 1 is expected"),
    ([ToolCall(name="clock", arguments={})], "a call of 'clock' where 'weather' is expected"),
    ([weather(days=3)], "the required argument 'city' is missing"),
    ([weather(city="Berlin", nights=2)], "'weather' has no argument 'nights'"),
    ([weather(city="Berlin", limits=[1.5])], "the argument 'limits' is not expected"),
    ([weather(city="Bonn")], "argument 'city': 'Bonn' is not an accepted value ('Berlin')"),
    ([weather(city="Berlin", days="3")], "argument 'days': '3' is not of type integer"),
    ([weather(city=5)], "argument 'city': 5 is not of type string"),
]


@pytest.mark.parametrize(("calls", "reason"), REASONS)
def test_the_reason_is_in_words(calls: list[ToolCall], reason: str) -> None:
    assert judge_calls(calls, [BERLIN], TOOLS) == Verdict(False, reason)


def test_the_reason_of_several_calls_names_the_one_that_is_missing() -> None:
    limits = ExpectedCall(name="weather", arguments={"city": ["Rome"], "limits": [[1.5]]})
    calls = [weather(city="Rome", limits=[1]), weather(city="berlin")]
    reason = (
        "expected call 2 of 2 is missing: argument 'limits': [1] has items of another type than the tool's"
    )
    assert judge_calls(calls, [BERLIN, limits], TOOLS) == Verdict(False, reason)


def test_no_call_and_any_call() -> None:
    call = ToolCall(name="clock", arguments={})
    assert judge_calls([], [], TOOLS).correct
    assert judge_calls([call], [], TOOLS) == Verdict(False, "a call, although no tool can help")
    assert judge_calls([call], "any", TOOLS).correct
    assert judge_calls([], "any", TOOLS) == Verdict(False, "no call, although a tool is needed")


def test_a_call_counts_for_the_first_expected_call_that_accepts_it() -> None:
    wide = ExpectedCall(name="weather", arguments={"city": ["Berlin", "Bonn"]})
    narrow = ExpectedCall(name="weather", arguments={"city": ["Berlin"]})
    calls = [weather(city="Berlin"), weather(city="Bonn")]
    assert judge_calls(calls, [narrow, wide], TOOLS).correct
    assert not judge_calls(calls, [wide, narrow], TOOLS).correct  # as in the package


@pytest.mark.parametrize(
    "arguments",
    [
        {"city": "Köln", "place": {"lat": 50.9, "tags": ["a", "b"], "in": {"country": "DE"}}},
        {"city": "", "stops": [{"name": "Bonn", "at": {"hour": 9}}, {"name": "Trier"}]},
        {"city": "x", "days": 0, "limits": [], "stops": [[1, 2], "a", None]},
        {"city": "x", "stops": [1, 2.5]},
    ],
)
def test_a_call_is_the_expected_one_that_is_made_of_it(arguments: dict[str, Any]) -> None:
    call = weather(**arguments)
    assert judge_calls([call], [ExpectedCall.of(call)], TOOLS) == Verdict(True)
    other = weather(**arguments | {"city": "elsewhere"})
    assert not judge_calls([other], [ExpectedCall.of(call)], TOOLS).correct


def test_schemas_without_a_single_type_accept_values_of_any_type() -> None:
    parameters = {"properties": {"by": {"type": ["integer", "null"]}, "to": {}}}
    tools = [{"name": "shift", "parameters": parameters}]
    expected = [ExpectedCall(name="shift", arguments={"by": [None, 2], "to": ["The End", 5]})]
    for arguments in ({"by": None, "to": "the end"}, {"by": 2, "to": 5}, {"by": 2.0, "to": 5.0}):
        assert judge_calls([ToolCall(name="shift", arguments=arguments)], expected, tools).correct
    assert not judge_calls([ToolCall(name="shift", arguments={"by": 3, "to": 5})], expected, tools).correct


def test_deep_and_long_values_are_wrong_and_shown_shortened() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    expected = [ExpectedCall(name="weather", arguments={"city": ["x"], "stops": [[]], "place": [{"a": [1]}]})]
    for call in (
        weather(city="x" * 5000),
        weather(city="x", stops=deep),
        weather(city="x", stops=[{}]),
        weather(city="x", stops=[], place={"a": deep}),
    ):
        verdict = judge_calls([call], expected, TOOLS)
        assert not verdict.correct
        assert len(verdict.reason) < 200
    nothing = [ExpectedCall(name="weather", arguments={"city": ["x"], "stops": []})]
    assert not judge_calls([weather(city="x", stops=[{"a": 1}])], nothing, TOOLS).correct


def test_an_expected_call_of_an_unknown_tool_is_an_error() -> None:
    with pytest.raises(ValueError, match="names 'radar', which is not among the tools"):
        judge_calls([weather(city="x")], [ExpectedCall(name="radar", arguments={})], TOOLS)
