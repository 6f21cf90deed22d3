"""Data sets, passages to search, and the forms of other trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trice.cli import options as o
from trice.cli.app import DATA, app
from trice.errors import InputError


@app.command(rich_help_panel=DATA)
def data(
    dataset: Annotated[
        str | None,
        typer.Argument(
            help="A data set's name, 'list' to see what there is, or 'index' for passages to search."
        ),
    ] = "list",
    output: o.Output = Path("data"),
    source: Annotated[
        Path | None,
        typer.Option(
            help="Folder of official files, default TRICE_DATA; for index JSONL or a Wikipedia dump."
        ),
    ] = None,
    hub: Annotated[bool, typer.Option(help="Fetch the official files from the Hugging Face hub.")] = False,
    train: Annotated[int | None, typer.Option(min=0, help="Training questions; default the paper's.")] = None,
    test: Annotated[int | None, typer.Option(min=0, help="Test questions; default the paper's.")] = None,
    seed: o.Seed = 0,
) -> None:
    """List the data sets, or write one as questions: data/raw/<task>/ to train, data/dev/<task>/ to test.

    With 'index', make the passages of --source searchable in the folder --output."""
    from trice.stages.prepare_data import index, listing, prepare

    if dataset in (None, "list"):
        print(listing(source))
    elif dataset == "index":
        if source is None:
            raise InputError(
                "trice data index needs --source, a JSONL file of title and text, or a Wikipedia dump"
            )
        print(index(source, output))
    else:
        print(prepare(str(dataset), output, source, hub=hub, train=train, test=test, seed=seed))


@app.command(rich_help_panel=DATA)
def export(
    data: o.Data,
    output: o.Output,
    task: o.Task = "math",
    form: Annotated[
        str | None,
        typer.Option(
            help="completion, messages, preference or published; default: completion for labeled questions, else preference."
        ),
    ] = None,
    tool: o.Tools = None,
) -> None:
    """Write labeled questions or candidates in a form of TRL, with tools and tool calls, for other trainers."""
    from trice.stages.export_data import export as stage

    print(f"{stage(data, output, task, form=form, tools=o.sources(tool))} rows in {output}")


@app.command("import", rich_help_panel=DATA)
def import_(
    data: o.Data,
    output: o.Output,
    task: o.Task = "math",
    form: Annotated[
        str | None,
        typer.Option(
            help="questions: for `trice run` and `trice split`, with the last answer as the gold answer"
        ),
    ] = None,
    tool: o.Tools = None,
) -> None:
    """Read chat rows or data in a form of TRL as labeled questions, preference pairs as candidates."""
    from trice.stages.import_data import import_ as stage

    print(stage(data, output, task, form=form, tools=o.sources(tool)))
