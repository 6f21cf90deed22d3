"""A user's own functions and objects, named `module:attribute` and found from the working folder."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from trice.errors import InputError


def load_own(kind: str, name: str) -> Any:
    """What `name`, of the form `module:attribute`, stands for; `kind` says in the message what it should be.

    Raises InputError where there is no such thing."""
    module, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # importing runs the user's module, which may fail in any way
        raise InputError(f"{kind} '{name}': {type(error).__name__}: {error}") from None
