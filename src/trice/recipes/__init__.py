"""Recipes: the whole loop as one validated YAML file, and the pipeline that runs it."""

from pathlib import Path


def shipped_recipes() -> dict[str, Path]:
    """The recipes that ship with the package by name, such as `demo` and `paper/mix`."""
    folder = Path(__file__).parent
    files = [*folder.glob("*.yaml"), *folder.glob("paper/*.yaml")]
    return dict(sorted((path.relative_to(folder).with_suffix("").as_posix(), path) for path in files))
