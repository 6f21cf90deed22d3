"""An OpenAI-compatible server that runs models, executes their tool calls and returns final answers."""

from importlib.util import find_spec

from trice.errors import InputError

REQUIRED = ("fastapi", "uvicorn", "prometheus_client")


def check_installed() -> None:
    """Raise InputError if a library that only the server needs is missing."""
    missing = [name for name in REQUIRED if find_spec(name) is None]
    if missing:
        raise InputError(f"serving needs {', '.join(missing)}: pip install 'trice-rlef[serve]'")
