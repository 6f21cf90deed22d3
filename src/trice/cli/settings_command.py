"""Commands whose options are made from settings classes.

The parameters of a command function are settings classes, for instance `def clone(input: TrainingInput, training:
Clone)`. Each field of such a class becomes one option with the field's name, type, default, bounds and docstring.
A field of a nested class has a dotted name (`--lora.r 16`). Each option can also be written as `key=value` after
the command, as in `trice run`. Pydantic checks the values, not Typer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import typer
from typer.core import TyperCommand

from trice.errors import InputError

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic.fields import FieldInfo

    from trice.settings import Settings

# The options whose names differ from their keys.
FLAGS = {"endpoint.url": "--endpoint", "endpoint.model": "--model", "endpoint.keys_file": "--keys-file"}
METAVARS = {int: "INTEGER", float: "NUMBER", dict: "NAME=VALUE"}
BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
OVERRIDES = "overrides"
Command = TypeVar("Command", bound=Callable[..., None])


class Option(NamedTuple):
    """One field of a settings class as an option."""

    key: str
    flag: str
    field: FieldInfo
    description: str
    panel: str

    @property
    def types(self) -> list[Any]:
        return [get_origin(choice) or choice for choice in _choices(self.field)]

    @property
    def metavar(self) -> str:
        """The values that the option takes, as its help shows them."""
        literals = [choice for choice in _choices(self.field) if get_origin(choice) is Literal]
        if literals:
            return "|".join(map(str, get_args(literals[0])))
        return next((METAVARS[kind] for kind in self.types if kind in METAVARS), "TEXT")

    @property
    def help(self) -> str:
        """The field's docstring, followed by its default and bounds."""
        notes = ["required"] if self.field.is_required() and "." not in self.key else []
        default = None if self.field.is_required() else self.field.get_default(call_default_factory=True)
        if default is not False and default not in (None, "", [], {}):
            notes.append(f"default: {'on' if default is True else default}")
        for name, sign in BOUNDS.items():
            limits = [getattr(each, name) for each in self.field.metadata if hasattr(each, name)]
            notes += [f"{sign} {limit:g}" for limit in limits if limit is not None]
        text = self.description[:1].upper() + self.description[1:].replace("`", "").replace("\n", " ")
        return f"{text.lstrip('`')} [{', '.join(notes)}]" if notes else text

    def parameter(self) -> inspect.Parameter:
        """The option as a parameter that Typer reads. Its value is text, a list of texts, or a switch."""
        switch, several = bool in self.types, not {list, dict}.isdisjoint(self.types)
        flag = f"{self.flag}/--no-{self.flag[2:]}" if self.field.default is True else self.flag
        info = typer.Option(
            flag, help=self.help.replace("[", "\\["), rich_help_panel=self.panel, show_default=False,
            metavar=None if switch else self.metavar,
        )  # fmt: skip
        kind: Any = bool if switch else list[str] if several else str
        return _parameter(_name(self.key), Annotated[kind | None, info])

    def read(self, given: Any) -> Any:
        """The value of the key, from what Typer gives."""
        if dict in self.types:
            pairs = [text.partition("=") for text in given]
            if wrong := [name for name, _, value in pairs if not (name and value)]:
                raise InputError(f"{self.flag} {wrong[0]} is not valid; write it as NAME=VALUE")
            return {name: value for name, _, value in pairs}
        one_text = isinstance(given, list) and len(given) == 1 and str in self.types
        return given[0] if one_text else given


def _choices(field: FieldInfo) -> Sequence[Any]:
    """The members of a union type, or the type alone."""
    kind = field.annotation
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _name(key: str) -> str:
    return key.replace(".", "__")


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def options_of(kind: type[Settings], panel: str, prefix: str = "") -> Iterator[Option]:
    """The options of a settings class and of the classes nested in it."""
    from trice.settings import Settings

    for name, field in kind.model_fields.items():
        key = prefix + (field.alias or name)
        parents: list[Any] = [each for each in kind.__mro__ if name in getattr(each, "model_fields", ())]
        descriptions = [parent.model_fields[name].description for parent in parents]
        description = next(filter(None, descriptions), "")  # a field that only changes the default has none
        option = Option(key, FLAGS.get(key, f"--{key.replace('_', '-')}"), field, description, panel)
        nested = [each for each in option.types if isinstance(each, type) and issubclass(each, Settings)]
        if nested:
            yield from options_of(nested[0], f"{name.capitalize()} options", f"{key}.")
        else:
            yield option


def settings_command(
    group: typer.Typer, panel: str | None = None, name: str | None = None
) -> Callable[[Command], Command]:
    """Register a function of settings objects as a command of `group`.

    The options are made when the command is called: the settings classes take too long to import for
    `trice --help`. Their names in the function's annotations are looked up in `trice.cli.options`."""

    def register(function: Command) -> Command:
        class SettingsCommand(TyperCommand):
            def get_params(self, ctx: Any) -> Any:
                if not self.params:
                    made, self.settings = _typer_command(function)
                    self.params, self.callback = made.params, made.callback
                return super().get_params(ctx)

        def without_options() -> None:
            pass

        called = name or function.__name__
        group.command(called, cls=SettingsCommand, help=inspect.getdoc(function), rich_help_panel=panel)(
            without_options
        )
        return function

    return register


def _typer_command(function: Callable[..., None]) -> tuple[Any, Callable[..., dict[str, Settings]]]:
    """The Typer command of a function of settings objects, and what makes these objects from its parameters."""
    hints = get_type_hints(function, localns=vars(import_module("trice.cli.options")))
    groups: dict[str, type[Settings]] = {key: kind for key, kind in hints.items() if key != "return"}
    by_flag: dict[str, Option] = {}
    for number, (group, kind) in enumerate(groups.items()):
        for option in options_of(kind, f"{group.capitalize()} options" if number else "Options"):
            by_flag.setdefault(option.flag, option)
    options = list(by_flag.values())

    def settings(given: dict[str, Any]) -> dict[str, Settings]:
        values: dict[str, Any] = {}
        for option in options:
            if (value := given[_name(option.key)]) not in (None, [], ()):
                _put(values, option.key, option.read(value))
        _override(values, given[OVERRIDES] or (), options)
        return {key: _validate(kind, values, options) for key, kind in groups.items()}

    def run(**given: Any) -> None:
        function(**settings(given))

    help_text = "An option as key=value, such as temperature=0.7; recipes have the same form."
    argument = typer.Argument(metavar="[KEY=VALUE …]", help=help_text, show_default=False)
    parameters = [
        *(option.parameter() for option in options),
        _parameter(OVERRIDES, Annotated[list[str] | None, argument]),
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    single = typer.Typer(add_completion=False)
    single.command()(run)
    return typer.main.get_command(single), settings


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
    values[last] = value


def _override(values: dict[str, Any], texts: Iterable[str], options: Sequence[Option]) -> None:
    from trice.settings import nearest_key, override

    keys = [option.key for option in options]
    for text in texts:
        key = text.partition("=")[0]
        if "=" in text and key.partition(".")[0] not in {each.partition(".")[0] for each in keys}:
            raise InputError(f"unknown key '{key}'; {nearest_key(key, keys)}")
        override(values, text)


def _validate(kind: type[Settings], values: dict[str, Any], options: Sequence[Option]) -> Settings:
    """The settings object of one class, from its keys among `values`."""
    from pydantic import ValidationError

    known = {field.alias or name for name, field in kind.model_fields.items()}
    chosen = {key: value for key, value in values.items() if key in known}
    try:
        return kind.model_validate(chosen)
    except ValidationError as error:
        raise InputError(_explain(error, options)) from None


def _explain(error: ValidationError, options: Sequence[Option]) -> str:
    """The first mistake, named by its option."""
    from trice.settings import nearest_key

    first = error.errors()[0]
    path = ".".join(part for part in first["loc"] if isinstance(part, str))
    if first["type"] == "extra_forbidden":
        return f"unknown key '{path}'; {nearest_key(path, [option.key for option in options])}"
    flag = next((option.flag for option in options if f"{path}.".startswith(f"{option.key}.")), None)
    if flag is None:
        flag = next((option.flag for option in options if option.flag == FLAGS.get(path)), path)
    if first["type"] == "missing":
        return f"missing option {flag}"
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{flag} {first['input']} is not valid: {message[0].lower()}{message[1:]}" if path else message
