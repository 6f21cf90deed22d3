"""The Typer applications that the commands are registered with, and what makes a text safe to print."""

from __future__ import annotations

from typing import Annotated

import typer

# The panels of `trice --help`, in this order.
WHOLE, STAGES, DATA, USE = "The whole loop", "Its stages", "Data", "Tools and trained models"

app = typer.Typer(
    help="Teach a language model when and how to use tools, from the results of running those tools.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
train = typer.Typer(help="Train a LoRA adapter: clone (stage 1) or rlef (stage 2).", no_args_is_help=True)
app.add_typer(train, name="train", rich_help_panel=STAGES)


def printable(text: str, kept: str = "") -> str:
    """A text of a model, a server or a file, in which no character but those of `kept` can control the terminal."""
    return "".join(each if each.isprintable() or each in kept else " " for each in text)


def _print_version(value: bool) -> None:
    if value:
        import trice

        print(f"trice {trice.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass
