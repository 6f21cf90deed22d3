"""The command line: parses, calls a stage, prints in short. No logic lives here.

Results go to files and, in short, to stdout; notices go to stderr. Exit codes: 0 done, 2 the input or the
call is wrong, 1 something failed; either way one line on stderr and no traceback.
"""

from __future__ import annotations

import os
import sys
import warnings

import typer

from trice.cli.app import app
from trice.errors import InputError, TriceError

# isort: off
from trice.cli import loop, stages, train, data, use  # noqa: F401  they register their commands, in this order
# isort: on

CTRL_C = 130  # what newer versions of typer return where older ones raise


def main() -> None:
    """Run the command line; every expected failure is one line and an exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore", FutureWarning)  # libraries' advice to our developers, not to users
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
        _fail("stopped; what is done is kept, run the same command again to go on", 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 1)
    except Exception as error:
        # Usage errors come as typer's or as click's own class, depending on the version.
        if hasattr(error, "format_message"):
            _fail(error.format_message() or "say which command; those there are stand above", 2)
        if os.environ.get("TRICE_DEBUG"):
            raise
        _fail(f"{type(error).__name__}: {error} (TRICE_DEBUG=1 shows where)", 1)


def _fail(line: str, code: int) -> None:
    # Names and values out of files stand in it: no character of theirs may steer the terminal.
    printable = "".join(character if character.isprintable() else " " for character in line)
    print(f"trice: {' '.join(printable.split())}", file=sys.stderr)
    sys.exit(code)
