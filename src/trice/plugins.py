"""Functions and objects of the user, named `module:attribute` and imported from the working folder."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from trice.errors import InputError


def load_own(kind: str, name: str) -> Any:
    """Import the object that `name` (`module:attribute`) names; `kind` says in an error what was expected.

    Raises InputError if it cannot be imported."""
    module, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # importing runs the user's module, which may fail in any way
        raise InputError(f"{kind} '{name}': {type(error).__name__}: {error}") from None
