"""Typed functions as tools: name, description, arguments and JSON schema are read from the function.

A model writes `name(value)`, `name(value, value)`, `name(key=value, …)` or `name(value, key=value)`. A value is
quoted (by the rules of `trice.formats.paper`), a JSON list or object, or bare text. Bare text ends at the next
comma, or at the end of the call if the tool has one argument. pydantic converts and checks the types. Methods,
`*args`, `**kwargs` and an unmatched closing parenthesis in bare text are not supported.
"""

from __future__ import annotations

import inspect
import json
import re
import typing
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel, PydanticUserError, ValidationError, create_model

from trice.errors import InputError, ToolError, check_number
from trice.formats.paper import structural_marks, unquote
from trice.tools import RELEASE_AFTER, TIME_LIMIT, Tool

_KEY = re.compile(r"\s*([A-Za-z_]\w*)\s*=(?!=)")
_CLOSING = {")": "(", "]": "[", "}": "{"}


class FunctionTool(Tool):
    """A function as a tool. It needs a docstring, and a type for every argument. The limits are those of `Tool`."""

    def __init__(
        self,
        function: Callable[..., Any],
        time_limit: float = TIME_LIMIT,
        *,
        workers: int = 1,
        rate: float | None = None,
        release_after: float | None = RELEASE_AFTER,
    ) -> None:
        self.name: str = function.__name__
        self.description = inspect.getdoc(function) or ""
        self.backend = f"{function.__module__}:{function.__qualname__}"
        check_number("time_limit", time_limit, float, above=0)
        check_number("workers", workers, int, least=1)
        for name, limit in (("rate", rate), ("release_after", release_after)):
            if limit is not None:
                check_number(name, limit, float, above=0)
        self.time_limit, self.workers = time_limit, workers
        self.rate, self.release_after = rate, release_after
        self._function = function
        self._arguments = arguments_of(function)
        if not self.description:
            raise InputError(
                f"tool '{self.name}': has no docstring; write one that says what the function does"
            )

    def __call__(self, *args: Any, **arguments: Any) -> Any:
        """Call the function."""
        return self._function(*args, **arguments)

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments."""
        return self._arguments.model_json_schema()

    def parse(self, text: str) -> dict[str, Any]:
        """The arguments in `text`. Raises ValueError for a wrong type, and for an unknown or missing name."""
        if not text.strip():
            raise ValueError("the call is empty")
        names = list(self._arguments.model_fields)
        return self._checked(read_arguments(text, names)).model_dump(mode="json", exclude_unset=True)

    def execute(self, **arguments: Any) -> str:
        """The function's result as text. Raises ToolError if the arguments do not fit."""
        try:
            values = self._checked(arguments)
        except ValueError as error:
            raise ToolError(str(error)) from None
        return str(self._function(**{name: getattr(values, name) for name in type(values).model_fields}))

    def _checked(self, given: dict[str, Any]) -> BaseModel:
        for name in given:
            if name not in self._arguments.model_fields:
                raise ValueError(f"{self.name} has no argument '{name}'")
        try:
            return self._arguments.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"argument '{name}': {first['msg']}") from None


def tool(function: Callable[..., Any] | None = None, **limits: Any) -> Any:
    """Make a function a tool that a model can call.

    Args:
        function: A function with a docstring, which becomes the description, and a type for every argument.
        limits: `time_limit` (seconds for one call), `workers` (calls at the same time), `rate` (calls started per
            second), `release_after` (seconds after which a slow call no longer occupies a worker).

    Returns:
        A `FunctionTool`, which can still be called as the function; with `limits` alone, a decorator.

    Raises:
        InputError: If an argument has no type, or the docstring is missing.

    Example:
        >>> import trice
        >>> @trice.tool(workers=4)
        ... def stock(product: str, warehouse: str) -> int:
        ...     'Say how many pieces of a product a warehouse holds.'
        ...     return {("chair", "north"): 7}[product, warehouse]
        >>> stock("chair", "north"), stock.name
        (7, 'stock')
    """
    if unknown := set(limits) - {"time_limit", "workers", "rate", "release_after"}:
        raise InputError(
            f"tool: unknown limit '{unknown.pop()}'; choose time_limit, workers, rate or release_after"
        )
    if function is None:
        return lambda decorated: tool(decorated, **limits)
    if not inspect.isfunction(function) or inspect.iscoroutinefunction(function):
        raise InputError(f"tool '{getattr(function, '__name__', function)}': expected a plain function")
    return FunctionTool(function, **limits)


def as_tool(tool_or_function: Tool | Callable[..., Any]) -> Tool:
    """A tool unchanged, or a function as a tool."""
    made: Tool = tool_or_function if isinstance(tool_or_function, Tool) else tool(tool_or_function)
    return made


def arguments_of(function: Callable[..., Any]) -> type[BaseModel]:
    """The function's parameters as a pydantic model. Raises InputError if a parameter has no type or name."""
    where = f"tool '{function.__name__}'"
    try:
        types = typing.get_type_hints(function)
    except Exception as error:  # an annotation is the user's code
        raise InputError(f"{where}: its types cannot be read: {error}") from None
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise InputError(f"{where}: argument '{name}': must be one that can be passed by name")
        if name not in types:
            raise InputError(f"{where}: argument '{name}': has no type; add an annotation")
        fields[name] = (types[name], ... if parameter.default is parameter.empty else parameter.default)
    if not fields:
        raise InputError(f"{where}: takes no argument")
    try:
        return create_model(function.__name__, **fields)
    except (PydanticUserError, NameError) as error:
        raise InputError(f"{where}: {str(error).splitlines()[0]}") from None


def read_arguments(text: str, names: list[str]) -> dict[str, Any]:
    """The arguments in `text` by name; positional ones come first, as in Python. Raises ValueError if there are too
    many, or one is repeated."""
    first = _KEY.match(text)
    if len(names) == 1 and (first is None or first[1] != names[0]):  # `x = 5` can be an equation
        return {names[0]: _value(text)}
    texts: dict[str, str] = {}
    named = ""
    for place, piece in enumerate(_pieces(text)):
        key = _KEY.match(piece)
        if key is None and named:  # a comma within a bare value
            texts[named] += f",{piece}"
            continue
        if key is None and place == len(names):
            raise ValueError(f"more than {len(names)} arguments")
        named = key[1] if key else ""
        name = named or names[place]
        if name in texts:
            raise ValueError(f"argument '{name}' is given twice")
        texts[name] = piece[key.end() :] if key else piece
    return {name: _value(value) for name, value in texts.items()}


def _pieces(text: str) -> Iterator[str]:
    """`text` split at its commas, except at those in quotes or brackets."""
    start, open_brackets = 0, []
    for match in structural_marks(text):
        sign = match[0]
        if sign in _CLOSING.values():
            open_brackets.append(sign)
        elif sign in _CLOSING:
            if open_brackets and open_brackets[-1] == _CLOSING[sign]:
                open_brackets.pop()
        elif sign == "," and not open_brackets:
            yield text[start : match.start()]
            start = match.end()
    yield text[start:]


def _value(text: str) -> Any:
    """A value from its text: unquoted, parsed from a JSON list or object, or the text itself."""
    text = text.strip()
    quoted = unquote(text)
    if quoted is not None:
        return quoted
    if text[:1] in ("'", '"') and text[0] not in text[1:]:
        raise ValueError(f"a quoted value has no closing quote: {text[:40]}")
    if text[:1] in ("[", "{"):
        try:
            value = json.loads(text)
            json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate cannot be stored
            return value
        except (ValueError, RecursionError):
            return text
    return text
