"""Using tools and trained models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trice.cli import options as o
from trice.cli.app import USE, app
from trice.errors import InputError, TriceError


@app.command(rich_help_panel=USE, context_settings={"ignore_unknown_options": True})  # "-5+3" is no option
def tool(
    name: Annotated[
        str,
        typer.Argument(
            help="The tool: calculator, WikiSearch, QA, translator, retriever, or your own as module:name."
        ),
    ],
    argument: Annotated[str, typer.Argument(help="What stands between a call's parentheses.")],
    source: Annotated[str | None, typer.Option(help="What is behind it: an index, a model, a URL.")] = None,
) -> None:
    """Run a tool once; its output alone goes to stdout."""
    from trice.records import Call
    from trice.tools import load_tool, run

    chosen = load_tool(name, source)
    chosen.check()
    try:
        arguments = chosen.parse(argument)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None
    execution = run(chosen, Call(name=chosen.name, arguments=arguments))
    if execution.output is None:
        raise TriceError(f"{name}: {execution.error}")
    # A server's text or a model's: no character of it may steer the terminal.
    print("".join(each if each.isprintable() or each in "\n\t" else " " for each in execution.output))


@app.command(rich_help_panel=USE)
def chat(
    model: o.Model = "gemma-3-270m",
    adapter: o.Adapter = None,
    task: o.Task = "math",
    template: Annotated[str | None, typer.Option(help="Prompt template; default the adapter's own.")] = None,
    max_new_tokens: o.MaxNewTokens = 64,
    tool: o.Tools = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
) -> None:
    """Answer questions typed at the terminal: the decision, the call, the tool's result, the answer."""
    from trice.chat import chat as talk

    talk(
        model, adapter, task, template,
        max_new_tokens=max_new_tokens, tools=o.sources(tool), device=device, dtype=dtype,
    )  # fmt: skip


@app.command(rich_help_panel=USE)
def push(
    adapter: Annotated[Path, typer.Argument(help="A trained adapter's folder.")],
    repo: Annotated[str, typer.Argument(help="The repository on the hub: owner/name.")],
    base: Annotated[
        str | None, typer.Option(help="What the base model is called on the hub, where it was a folder.")
    ] = None,
    private: Annotated[bool, typer.Option(help="Make a private repository.")] = False,
    revision: Annotated[str | None, typer.Option(help="A branch; default main.")] = None,
) -> None:
    """Upload an adapter and its model card to the Hugging Face hub, in one commit.

    The token is that of `hf auth login`, or HF_TOKEN."""
    from trice.training.hub import push as upload

    print(upload(adapter, repo, base=base, private=private, revision=revision))
