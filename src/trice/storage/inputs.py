"""The definition of finished work, which both stores share.

An artifact is finished if its files exist and its recorded input hash matches. The inputs are everything that the
content depends on: data, prompts, task, numerics and seed. Settings of speed, memory, placement and logging are not
among them (see `Settings.identity`). Input that differs from what unfinished work was begun with is refused, so
that one artifact never mixes two settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from trice.errors import InputError


def to_json(value: object, sort: bool = True) -> str:
    """A value as JSON with sorted keys. A path is written as its text."""
    return json.dumps(value, ensure_ascii=False, sort_keys=sort, default=_plain)


def _plain(value: object) -> object:
    return value.model_dump(mode="json", exclude_none=True) if isinstance(value, BaseModel) else str(value)


def input_hash(inputs: object) -> str:
    """The sha256 of the inputs' JSON, independent of the order of keys."""
    return hashlib.sha256(to_json(inputs).encode()).hexdigest()


def is_finished(recorded: str | None, current: str, files: Iterable[Path]) -> bool:
    """Whether an artifact's recorded input hash is the current one and all of its files exist."""
    return recorded == current and all(path.exists() for path in files)


def check_same_inputs(where: Path, before: Mapping[str, Any], now: Mapping[str, Any], remedy: str) -> None:
    """Raise InputError naming the inputs that changed since the work at `where` was begun."""
    if before != now:
        changes = differences(before, now)
        raise InputError(f"{where}: was begun with other settings ({changes}); use those again, or {remedy}")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What changed between two groups of settings: `seed was 1, is now 2; lora.r was 8, is now 16`."""
    old, new = flat(before), flat(now)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return "; ".join(f"{key} was {old.get(key)!r}, is now {new.get(key)!r}" for key in keys)


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted keys."""
    result: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        result |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return result
