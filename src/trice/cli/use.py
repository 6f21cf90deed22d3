"""Using tools and trained models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trice.cli import options as o
from trice.cli.app import USE, app
from trice.cli.model_spec import meant
from trice.errors import InputError, TriceError
from trice.server.limits import Limits


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
    from trice.tools import load_tool, run
    from trice.types import ToolCall

    chosen = load_tool(name, source)
    chosen.check()
    try:
        arguments = chosen.parse(argument)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None
    execution = run(chosen, ToolCall(name=chosen.name, arguments=arguments))
    if execution.output is None:
        raise TriceError(f"{name}: {execution.error}")
    # A server's text or a model's: no character of it may steer the terminal.
    print("".join(each if each.isprintable() or each in "\n\t" else " " for each in execution.output))


@app.command(rich_help_panel=USE)
def chat(
    model: o.ModelOf = None,
    adapter: o.Adapter = None,
    task: o.TaskOf = None,
    template: o.TemplateOf = None,
    max_new_tokens: o.MaxNewTokens = 64,
    tool: o.Tools = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
) -> None:
    """Answer questions typed at the terminal: the decision, the call, the tool's result, the answer."""
    from trice.cli.chat import chat as talk

    model, task, template = meant(adapter, model, task, template)
    talk(
        model, adapter, task, template,
        max_new_tokens=max_new_tokens, tools=o.sources(tool), device=device, dtype=dtype,
    )  # fmt: skip


@app.command(rich_help_panel=USE)
def serve(
    model: o.ModelOf = None,
    adapter: Annotated[
        list[Path] | None,
        typer.Option(
            help="LoRA adapter folder, served under the folder's name; several times for several. Each takes the "
            "memory of a whole model."
        ),
    ] = None,
    task: o.TaskOf = None,
    template: Annotated[
        str | None,
        typer.Option(help="Prompt template; default each adapter's own, the first one's for the base."),
    ] = None,
    tool: o.Tools = None,
    questions: Annotated[
        Path | None,
        typer.Option(help="Questions to try on the page, JSON lines with 'input' and perhaps 'task'."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's need a key.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8377,
    keys_file: Annotated[
        Path | None,
        typer.Option(
            help="File of the clients' keys, one a line, readable by you alone; else TRICE_SERVE_KEYS."
        ),
    ] = None,
    allow_anyone: Annotated[
        bool, typer.Option("--allow-anyone", help="Let other machines in without a key.")
    ] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Another name the server is called by, as behind a proxy.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="The most a request may ask for.")
    ] = Limits.max_new_tokens,
    max_prompt_tokens: Annotated[
        int, typer.Option(min=1, help="The longest prompt, in tokens.")
    ] = Limits.max_prompt_tokens,
    batch_size: Annotated[int, typer.Option(min=1, help="Responses written at a time.")] = Limits.batch_size,
    max_waiting: Annotated[
        int, typer.Option(min=1, help="Requests that may wait for a place; more are refused.")
    ] = Limits.max_waiting,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds a request may take, its body included.")
    ] = Limits.timeout,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
) -> None:
    """Serve models as an OpenAI-compatible endpoint that executes their calls, with a page to try them."""
    from trice.server import check_installed

    check_installed()
    from trice.server.startup import Entrance
    from trice.server.startup import serve as start

    known = meant(adapter, model, task, template)
    start(
        known.model, adapter or [], known.task, template,
        entrance=Entrance(host, port, keys_file, tuple(allow_host or ()), allow_anyone),
        limits=Limits(max_new_tokens, max_prompt_tokens, batch_size, max_waiting, timeout),
        tools=o.sources(tool), questions=questions, device=device, dtype=dtype,
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
