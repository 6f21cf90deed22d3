"""Data sets, passages to search, and the forms of other trainers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trice.cli.app import DATA, app
from trice.cli.settings_command import settings_command
from trice.errors import InputError

if TYPE_CHECKING:
    from trice.cli.options import ExportOptions, ImportOptions, TaskOptions


@app.command(rich_help_panel=DATA)
def data(
    dataset: Annotated[
        str,
        typer.Argument(help="Name of a data set, 'list' for all of them, or 'index' for passages to search."),
    ] = "list",
    output: Annotated[Path, typer.Option(help="Output folder.")] = Path("data"),
    source: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the official files, default TRICE_DATA; with index a JSONL or SQuAD file, or a dump."
        ),
    ] = None,
    hub: Annotated[
        bool, typer.Option("--hub", help="Fetch the official files from the Hugging Face hub.")
    ] = False,
    train: Annotated[
        int | None, typer.Option(min=0, help="Number of training questions; default as in the paper.")
    ] = None,
    test: Annotated[
        int | None, typer.Option(min=0, help="Number of test questions; default as in the paper.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the random choice of questions; default 0.")
    ] = None,
) -> None:
    """List the data sets, or write the questions of one to data/raw/<task>/ and data/dev/<task>/.

    With 'index', make the passages of --source searchable in the folder --output."""
    from trice.stages.prepare_data import index, listing, prepare

    if dataset in ("list", "index"):
        given = {"--hub": hub or None, "--train": train, "--test": test, "--seed": seed}
        if unused := [flag for flag, value in given.items() if value is not None]:
            raise InputError(f"{unused[0]} does not apply to 'trice data {dataset}'; leave it out")
    if dataset == "list":
        print(listing(source))
    elif dataset == "index":
        if source is None:
            raise InputError("missing option --source: a JSONL file of title and text, or a Wikipedia dump")
        print(index(source, output))
    else:
        print(prepare(dataset, output, source, hub=hub, train=train, test=test, seed=seed or 0))


@settings_command(app, DATA)
def export(files: ExportOptions, task: TaskOptions) -> None:
    """Write labeled questions or candidates in a form of TRL, with tools and tool calls, for other trainers."""
    from trice.stages.export_data import export as stage
    from trice.tasks import Tasks

    rows = stage(files.data, files.output, Tasks(task.task, task.tool), form=files.form)
    print(f"{rows} rows in {files.output}")


@settings_command(app, DATA, "import")
def import_(files: ImportOptions, task: TaskOptions) -> None:
    """Read chat rows or data in a form of TRL as labeled questions, preference pairs as candidates."""
    from trice.stages.import_data import import_ as stage
    from trice.tasks import Tasks

    print(stage(files.data, files.output, Tasks(task.task, task.tool), form=files.form))
