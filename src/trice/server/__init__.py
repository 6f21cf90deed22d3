"""Serve: an OpenAI-compatible endpoint that runs models, executes their calls and returns the final answer."""

from importlib.util import find_spec

from trice.errors import InputError

NEEDED = ("fastapi", "uvicorn", "prometheus_client")


def check_installed() -> None:
    """Raise InputError where a library is missing that only a server needs."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(f"serving needs {', '.join(missing)}: pip install 'trice-rlef[serve]'")
