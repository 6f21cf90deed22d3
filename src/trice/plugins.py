"""Functions and objects of the user, named `module:attribute` and imported from the working folder."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from trice.errors import InputError


def load_own(kind: str, name: str) -> Any:
    """Import the object that `name` (`module:attribute`) names; `kind` says in an error what was expected.

    Raises InputError if it cannot be imported."""
    module, _, attribute = name.partition(":")
    _search_working_folder()
    try:
        loaded = importlib.import_module(module)
    except Exception as error:  # importing runs the user's module, which may fail in any way
        if (
            isinstance(error, ModuleNotFoundError)
            and error.name
            and f"{module}.".startswith(f"{error.name}.")
        ):
            reason = f"there is no module {error.name} in the working folder, and none is installed"
        else:
            reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{kind} '{name}': {reason}") from None
    if not hasattr(loaded, attribute):
        public = ", ".join(each for each in vars(loaded) if not each.startswith("_")) or "nothing"
        raise InputError(f"{kind} '{name}': the module {module} has no '{attribute}'; it has {public}")
    return getattr(loaded, attribute)


def module_file(name: str) -> Path | None:
    """The file of a user's `module` or `module:attribute`, relative to the working folder if it is there. It is not
    imported. None for a module of trice, and for one that does not exist or has no file."""
    module = name.partition(":")[0]
    _search_working_folder()
    try:
        found = None if module.partition(".")[0] == "trice" else importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    if found is None or not found.has_location or found.origin is None:
        return None
    path, here = Path(found.origin), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _search_working_folder() -> None:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
