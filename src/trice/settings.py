"""The base class of all settings: of recipes, of the command line and of training.

Settings are checked by pydantic. Overrides are texts such as `clone.num_train_epochs=2`. A wrong key is answered with
the known key that is most like it. This module does not import torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from trice.errors import InputError, nearest

SettingsT = TypeVar("SettingsT", bound="Settings")
FREE = "free"  # marks a setting of speed, memory, placement or logging, which does not change results


class Settings(BaseModel):
    """A group of settings. It is immutable, and an unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def identity(self) -> dict[str, Any]:
        """The settings that results depend on, as JSON values. Those marked `FREE` are left out, here and in nested
        groups, so they may change between the runs of an unfinished step."""
        found = self.model_dump(mode="json", by_alias=True)
        for name, field in type(self).model_fields.items():
            key, value = field.alias or name, getattr(self, name)
            if FREE in field.metadata:
                del found[key]
            elif isinstance(value, Settings):
                found[key] = value.identity()
            elif isinstance(value, list):
                found[key] = [each.identity() if isinstance(each, Settings) else each for each in value]
        return found


def override(value: dict[str, Any], text: str) -> None:
    """Set one `key=value` in nested settings. Dots in the key separate levels, and the value is YAML.

    Raises InputError for a text of another form."""
    path, equals, given = text.partition("=")
    if not equals:
        raise InputError(f"'{text}' is not an override; write key=value, for instance num_train_epochs=2")
    *parents, last = path.split(".")
    inner: Any = value
    for parent in parents:
        inner = _list_entry(inner, parent, text) if isinstance(inner, list) else inner.setdefault(parent, {})
        if not isinstance(inner, dict | list):
            raise InputError(f"'{text}': '{parent}' has a value and no keys")
    if isinstance(inner, list):
        raise InputError(f"'{text}': '{parents[-1]}' is a list; name an entry's key, such as {path}.train=5")
    try:
        inner[last] = yaml.safe_load(given)
    except yaml.YAMLError:
        raise InputError(f"'{text}': the value is not valid YAML") from None


def _list_entry(entries: list[Any], name: str, text: str) -> Any:
    """An entry of a list by its number from 0, or by its name (`data.starter`, `collect.sampled`)."""
    if name.isdigit() and int(name) < len(entries):
        return entries[int(name)]
    for entry in entries:
        if isinstance(entry, dict) and name in (entry.get("dataset"), entry.get("origin")):
            return entry
    raise InputError(f"'{text}': there is no entry '{name}'; give its number from 0, or its name")


def parse(kind: type[SettingsT], value: dict[str, Any], where: str) -> SettingsT:
    """Settings of `kind` from nested values. Raises InputError, which begins with `where`, for the first key that is
    not valid."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise InputError(f"{where}: {_message(kind, error)}") from None


def _message(kind: type[BaseModel], error: ValidationError) -> str:
    errors = error.errors()  # a misspelt required key gives two errors; the unknown key is more helpful
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        message = first["msg"].removeprefix("Value error, ")
        return f"key '{path}': {message}" if path else message
    known = sorted(_keys(kind, first["loc"]))
    given = str(first["loc"][-1])
    return f"unknown key '{path}'; {nearest_key(given, known)}"


def nearest_key(given: str, known: Sequence[str]) -> str:
    """A hint at the known key or option that is most similar to `given`, as a whole or in a part: `num_train_epochs`
    for `epcohs`. If none is similar, it lists them, nested ones by their first part."""
    plain = {_plain(key): key for key in known}
    word = _plain(given)
    parts = {part: key for key in plain for part in re.split("[_.]", key)}
    near = nearest(word, plain) or next((key for key in plain if word in key), None)
    near = near or parts.get(nearest(word, parts) or "")
    if near:
        return f"did you mean '{plain[near]}'?"
    return f"choose one of {', '.join(dict.fromkeys(key.partition('.')[0] for key in known))}"


def _plain(key: str) -> str:
    """A key as recipes write it; an option has dashes."""
    return key.removeprefix("--").replace("-", "_")


def _keys(kind: type[BaseModel], path: Sequence[str | int]) -> set[str]:
    """The keys that are known where `path` ends."""
    for part in path[:-1]:
        if isinstance(part, str):
            inner = kind.model_fields[part].annotation
            choices = [inner, *getattr(inner, "__args__", ())]
            kind = next(each for each in choices if isinstance(each, type) and issubclass(each, BaseModel))
    return {field.alias or name for name, field in kind.model_fields.items()}
