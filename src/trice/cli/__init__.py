"""The command line: it parses the arguments, calls a stage and prints a short result.

Results go to files and in short to stdout; notices go to stderr. The exit code is 0 if the work is done, 2 if the
input or the call is wrong and 1 if something failed. An error is one line on stderr without a traceback.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import typer

from trice.cli.app import app, printable
from trice.errors import InputError, TriceError

# isort: off
from trice.cli import run, stages, train, data, serving  # noqa: F401  they register their commands, in this order
# isort: on

CTRL_C = 130  # the return value of newer versions of Typer, where older versions raise


def main() -> None:
    """Run the command line and turn every error into one line and an exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore", FutureWarning)  # of libraries, for our developers and not for users
    try:
        if app(standalone_mode=False) == CTRL_C:
            raise KeyboardInterrupt
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except InputError as error:
        _fail(str(error), 2)
    except TriceError as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        _fail("stopped; finished work is kept, and the same command continues it", 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 1)
    except Exception as error:
        # Usage errors have a class of Typer or of click, depending on the version.
        if hasattr(error, "possibilities") and hasattr(error, "option_name") and getattr(error, "ctx", None):
            _fail(_unknown_option(error), 2)
        if hasattr(error, "format_message"):
            _fail(error.format_message() or "missing command; choose one of those listed above", 2)
        if os.environ.get("TRICE_DEBUG"):
            raise
        _fail(f"{type(error).__name__}: {error} (TRICE_DEBUG=1 shows the traceback)", 1)


def _unknown_option(error: Any) -> str:
    """The error for an option that a command does not have, with the option that is most like it."""
    from trice.settings import nearest_key

    options = [
        name for parameter in error.ctx.command.params for name in parameter.opts if name.startswith("--")
    ]
    return f"unknown option {error.option_name}; {nearest_key(error.option_name, options)}"


def _fail(line: str, code: int) -> None:
    print(f"trice: {' '.join(printable(line).split())}", file=sys.stderr)
    sys.exit(code)
