"""The whole loop from a recipe, and its report."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

import typer

from trice.cli.app import WHOLE, app
from trice.errors import InputError
from trice.recipes import shipped_recipes

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE …]", help="Keys of the recipe to change.")
]
UNKNOWN_OPTIONS = {"ignore_unknown_options": True}  # `--dtype float32` gets a hint at dtype=float32


@app.command(rich_help_panel=WHOLE, context_settings=UNKNOWN_OPTIONS)
def demo(overrides: Overrides = None) -> None:
    """Run the whole loop on the starter set with Gemma 3 270M: `trice run` of the recipe called demo."""
    from trice.progress import notice
    from trice.recipes.estimate import estimate
    from trice.recipes.recipe import load_recipe

    _refuse_options(overrides or ())
    if line := estimate(load_recipe("demo", overrides or ())):
        notice(line)
    run("demo", overrides)


@app.command(rich_help_panel=WHOLE, context_settings=UNKNOWN_OPTIONS)
def run(
    recipe: Annotated[
        str,
        typer.Argument(help=f"Recipe file, or a shipped recipe: {', '.join(shipped_recipes())}."),
    ],
    overrides: Overrides = None,
    status: Annotated[
        bool,
        typer.Option("--status", help="Only print the progress of each step. The run may be in progress."),
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Retry the rows that failed in an earlier run.")
    ] = False,
) -> None:
    """Run a recipe from the data to the report. After an interruption, the same command continues the run."""
    from trice.recipes.recipe import load_recipe
    from trice.recipes.runner import run as run_recipe
    from trice.recipes.runner import status as run_status
    from trice.report import summary

    _refuse_options([recipe, *(overrides or ())])
    chosen = load_recipe(recipe, overrides or ())
    if status:
        print("\n".join(run_status(chosen)))
        return
    folder = run_recipe(chosen, retry=retry_failed)
    print(summary(folder))
    print(f"report: {folder / 'report.html'}")


@app.command(rich_help_panel=WHOLE)
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Folders of runs.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder of the report. The default for one run is the run's folder.")
    ] = None,
) -> None:
    """Write report.html, report.md, results.json and the figures of one run, or of several runs compared."""
    from trice.report import summary, write_report

    path = write_report(runs, output)
    for folder in runs:
        if len(runs) > 1:
            print(f"{folder}:")
        print(summary(folder))
    print(f"report: {path}")


def _refuse_options(words: Sequence[str]) -> None:
    """Raise InputError for an option, with the key of the recipe that it probably means."""
    from trice.cli.settings_command import options_of
    from trice.recipes.recipe import Recipe
    from trice.settings import nearest_key

    keys = [option.key for option in options_of(Recipe, "recipe")]
    for word, after in zip_longest(words, words[1:], fillvalue=""):
        if not word.startswith("-"):
            continue
        name, _, given = word.lstrip("-").replace("-", "_").partition("=")
        value = given or (after if after and "=" not in after and not after.startswith("-") else "VALUE")
        meant = [key for key in keys if key == name or key.endswith(f".{name}")]
        if not meant:
            raise InputError(f"{word} is not an option of a recipe's run; {nearest_key(name, keys)}")
        choices = " or ".join(f"{key}={value}" for key in meant)
        raise InputError(f"{word} is not valid here, because a recipe has keys; use {choices}")
