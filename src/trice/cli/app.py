"""What the commands are registered with."""

from __future__ import annotations

import typer

# What `trice --help` lists the commands under, in this order.
WHOLE, STAGES, DATA, USE = "The whole loop", "Its stages", "Data", "Tools and trained models"

app = typer.Typer(
    help="Teach a language model when and how to use tools, from the tools' own results.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
train = typer.Typer(help="Train a LoRA adapter: clone (stage 1) or rlef (stage 2).", no_args_is_help=True)
app.add_typer(train, name="train", rich_help_panel=STAGES)
