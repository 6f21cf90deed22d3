"""The whole loop from a recipe, and its report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trice.cli import options as o
from trice.cli.app import WHOLE, app


@app.command(rich_help_panel=WHOLE)
def demo(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE …]", help="Keys of the recipe to change.")
    ] = None,
) -> None:
    """The whole loop on the starter set with Gemma 3 270M: `trice run` of the recipe that ships as demo."""
    from trice.progress import notice
    from trice.recipes.estimate import estimate
    from trice.recipes.recipe import load_recipe

    if line := estimate(load_recipe("demo", overrides or ())):
        notice(line)
    run("demo", overrides)


@app.command(rich_help_panel=WHOLE)
def run(
    recipe: Annotated[
        str, typer.Argument(help="A recipe file, or the name of one that ships (demo, real-math, real-mix).")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE …]", help="Keys of the recipe to change.")
    ] = None,
    status: Annotated[
        bool, typer.Option(help="Only say how far each step is; the run may be going on elsewhere.")
    ] = False,
    retry_failed: o.RetryFailed = False,
) -> None:
    """Run a recipe from data to report; run again after a kill, it goes on where it was."""
    from trice.recipes.recipe import load_recipe
    from trice.recipes.runner import run as run_recipe
    from trice.recipes.runner import status as run_status
    from trice.report import summary

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
        Path | None, typer.Option(help="Folder of the report; for one run its own folder, if not given.")
    ] = None,
) -> None:
    """Write report.html, report.md, results.json and the figures of a run, or of several side by side."""
    from trice.report import summary, write_report

    path = write_report(runs, output)
    for folder in runs:
        print(f"{folder}:") if len(runs) > 1 else None
        print(summary(folder))
    print(f"report: {path}")
