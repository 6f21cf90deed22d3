"""The judge of tool calls: whether a response's calls are the expected ones.

The rule is that of the Berkeley Function Calling Leaderboard, in the AST checker of the package `bfcl-eval`: the same
function, every required argument, no unknown argument, and for each argument a value among the accepted ones and of
the tool's type. Strings are compared without case, spaces and the punctuation `,./-_*^`. The accepted value `""` marks
an argument that may be missing. Several calls may come in any order. `benchmarks/bfcl_checker.py` compares the verdicts
with those of the package.

Where the package's verdict can be disputed, this module follows it, and a comment says so. It differs in one point: a
value that ends the package's checker with an exception, such as a number in a list of objects, is wrong here. The
module neither parses responses nor executes calls.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from trice.messages import ExpectedCall, ToolCall

_TYPES: dict[object, type] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list,
    "object": dict,
}


_SHORT = reprlib.Repr()  # bounded in length and depth
_SHORT.maxstring = _SHORT.maxother = 60


Expected: TypeAlias = Sequence[ExpectedCall] | Literal["any"]
"""The calls of a right response: exactly these, in any order; none if it is empty; at least one call if it is `any`"""


class Verdict(NamedTuple):
    """Whether calls are right, and if they are not, why."""

    correct: bool
    reason: str = ""


def judge_calls(calls: Sequence[ToolCall], expected: Expected, tools: Sequence[Mapping[str, Any]]) -> Verdict:
    """Judge the calls of one response.

    Args:
        calls: All calls that the response makes; malformed ones are not among them.
        expected: The accepted calls, an empty list if no call is right, or `any` if any call is.
        tools: The tools that the model was offered, as OpenAI's JSON schemas.

    Returns:
        The verdict. Its reason is empty if the calls are right.

    Raises:
        ValueError: An expected call names a tool that is not among `tools`.

    Example:
        >>> weather = {"name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}}
        >>> expected = [ExpectedCall(name="weather", arguments={"city": ["Berlin"]})]
        >>> judge_calls([ToolCall(name="weather", arguments={"city": "Bonn"})], expected, [weather])
        Verdict(correct=False, reason="argument 'city': 'Bonn' is not an accepted value ('Berlin')")
    """
    if expected == "any":
        return Verdict(True) if calls else Verdict(False, "no call, although a tool is needed")
    if len(calls) != len(expected):
        return Verdict(False, _wrong_count(len(calls), len(expected)))
    functions = {function["name"]: function for function in (tool.get("function", tool) for tool in tools)}
    remaining = list(calls)
    # A call counts for the first expected call that accepts it, as in the package. If another assignment of calls to
    # expected calls were complete and this one is not, the response is wrong all the same.
    for number, wanted in enumerate(expected, start=1):
        if wanted.name not in functions:
            raise ValueError(f"the expected call names '{wanted.name}', which is not among the tools")
        parameters = functions[wanted.name].get("parameters") or {}
        reasons = [_call_mismatch(call, wanted, parameters) for call in remaining]
        if None not in reasons:
            same_name = [call.name == wanted.name for call in remaining]
            reason = reasons[same_name.index(True) if True in same_name else 0]
            place = f"expected call {number} of {len(expected)} is missing: " if len(expected) > 1 else ""
            return Verdict(False, f"{place}{reason}")
        del remaining[reasons.index(None)]
    return Verdict(True)


def _wrong_count(found: int, wanted: int) -> str:
    if not wanted:
        return "a call, although no tool can help"
    calls = "no call" if not found else "1 call" if found == 1 else f"{found} calls"
    return f"{calls}, but {wanted} {'is' if wanted == 1 else 'are'} expected"


def _call_mismatch(call: ToolCall, wanted: ExpectedCall, parameters: Mapping[str, Any]) -> str | None:
    """Why a call is not the expected one, or None if it is. `parameters` is the tool's JSON schema."""
    if call.name != wanted.name:
        return f"a call of '{call.name}' where '{wanted.name}' is expected"
    for name in parameters.get("required") or ():
        if name not in call.arguments:
            return f"the required argument '{name}' is missing"
    properties = parameters.get("properties") or {}
    for name, value in call.arguments.items():
        if name not in properties:
            return f"'{call.name}' has no argument '{name}'"
        if name not in wanted.arguments:
            return f"the argument '{name}' is not expected"
        schema = properties[name] if isinstance(properties[name], Mapping) else {}
        reason = _value_mismatch(value, wanted.arguments[name], schema)
        if reason:
            return f"argument '{name}': {reason}"
    for name, accepted in wanted.arguments.items():
        if name not in call.arguments and "" not in accepted:
            return f"the argument '{name}' is missing"
    return None


def _value_mismatch(value: Any, accepted: list[Any], schema: Mapping[str, Any]) -> str | None:
    """Why an argument's value is not accepted, or None if it is."""
    gold_type = _type_of_first(accepted)
    expected_type: type = _python_type(schema) or type(value)
    if expected_type is float and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            return f"{_shown(value)} is out of range"
    item_type = _item_type(value, schema) if expected_type is list else None
    if type(value) is expected_type:
        if item_type and not any(_items_fit(value, each, item_type) for each in accepted):
            return f"{_shown(value)} has items of another type than the tool's"
        by_rule = gold_type in (None, expected_type)
    elif type(value) is gold_type:
        by_rule = False  # accepted values of another type than the tool's are compared literally
    else:
        return f"{_shown(value)} is not of type {schema.get('type', expected_type.__name__)}"
    if by_rule and expected_type in _RULES:
        correct = (_objects_accepted if item_type is dict else _RULES[expected_type])(value, accepted)
    else:
        correct = value in accepted
    if correct:
        return None
    listed = [_shown(each) for each in accepted if each != ""]
    return f"{_shown(value)} is not an accepted value ({' or '.join(listed) or 'none is accepted'})"


def _python_type(schema: object) -> type | None:
    """The Python type of a JSON schema with one named type; None for other schemas, which accept every type."""
    named = schema.get("type") if isinstance(schema, Mapping) else None
    return _TYPES.get(named) if isinstance(named, str) else None


def _item_type(value: Any, schema: Mapping[str, Any]) -> type | None:
    """The Python type of a list's items by its schema; without one, `dict` if the value is a list of objects."""
    objects = isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
    return _python_type(schema.get("items")) or (dict if objects else None)


def _type_of_first(accepted: Sequence[Any]) -> type | None:
    """The type of the first accepted value, not counting the mark `""`."""
    return next((type(each) for each in accepted if each != ""), None)


def _items_fit(value: Any, accepted: Any, item_type: type) -> bool:
    """Whether a list's items have the tool's type, or that of the first item of an accepted list.

    An integer is no number here, other than outside of lists. An accepted value that is not a list, such as the mark
    `""`, lets items of any type pass. Both are the package's rules.
    """
    if not isinstance(accepted, list):
        return True
    return all(type(item) in (item_type, _type_of_first(accepted)) for item in value)


def _text_accepted(value: str, accepted: Sequence[Any]) -> bool:
    # The mark "" is an accepted text for the package, so an argument that may be missing may be empty too.
    return _standard(value) in [_standard(each) for each in accepted if isinstance(each, str)]


def _list_accepted(value: list[Any], accepted: Sequence[Any]) -> bool:
    """Whether a list equals an accepted one. Texts in lists within the list are compared literally.

    The mark "" counts as an empty list, as in the package.
    """
    lists = [[_standard(item) for item in each] for each in accepted if isinstance(each, list | str)]
    return [_standard(item) for item in value] in lists


def _object_accepted(value: Any, accepted: Sequence[Any]) -> bool:
    return any(
        isinstance(each, dict) and isinstance(value, dict) and _fields_accepted(value, each)
        for each in accepted
    )


def _objects_accepted(value: Any, accepted: Sequence[Any]) -> bool:
    """Whether a list of objects equals an accepted one, in the same order."""
    return any(
        len(value) == len(each)
        and all(_object_accepted(item, [wanted]) for item, wanted in zip(value, each, strict=True))
        for each in accepted
        if isinstance(each, list | str)  # the mark "" counts as an empty list
    )


_RULES: dict[type, Callable[[Any, Sequence[Any]], bool]] = {
    dict: _object_accepted,
    list: _list_accepted,
    str: _text_accepted,
}


def _fields_accepted(value: Mapping[str, Any], accepted: Mapping[str, Any]) -> bool:
    """Whether each field of an object has an accepted value. Types are not checked, so `true` equals 1, and an object
    within the object has to equal an accepted one literally: both are the package's rules."""
    for name, each in value.items():
        if name not in accepted or _standard(each) not in [_standard(other) for other in accepted[name]]:
            return False
    return all(name in value or "" in each for name, each in accepted.items())


def _standard(value: Any) -> Any:
    """A text without case, spaces and punctuation; other values as they are."""
    if not isinstance(value, str):
        return value
    return re.sub(r"[ ,./\-_*^]", "", value).lower().replace("'", '"')


def _shown(value: Any) -> str:
    return _SHORT.repr(value)
