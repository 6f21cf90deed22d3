"""Tools and trained models: run a tool, chat, serve, push to the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trice.cli.app import USE, app
from trice.cli.settings_command import settings_command
from trice.errors import InputError, TriceError

if TYPE_CHECKING:
    from trice.cli.options import ChatOptions, DeviceOptions, ServedModels, ServerOptions


@app.command(rich_help_panel=USE, context_settings={"ignore_unknown_options": True})  # "-5+3" is no option
def tool(
    name: Annotated[
        str,
        typer.Argument(
            help="Tool: calculator, WikiSearch, QA, translator, retriever, or your own as module:name."
        ),
    ],
    arguments: Annotated[
        list[str], typer.Argument(metavar="ARGUMENTS", help="Arguments of the call, as one quoted text.")
    ],
    source: Annotated[
        str | None, typer.Option(help="Source of the tool's answers: an index, a model or a URL.")
    ] = None,
) -> None:
    """Run a tool once. Only its output goes to stdout."""
    from trice.tools import load_tool
    from trice.tools.worker_pool import run
    from trice.types import ToolCall

    chosen = load_tool(name, source)
    if len(arguments) > 1:
        raise InputError(
            f"tool takes one text, not {len(arguments)}; quote it: trice tool {name} '{', '.join(arguments)}'"
        )
    chosen.check()
    try:
        values = chosen.parse(arguments[0])
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None
    execution = run(chosen, ToolCall(name=chosen.name, arguments=values))
    if execution.output is None:
        raise TriceError(f"{name}: {execution.error}")
    # The output comes from a server or a model: no character of it may control the terminal.
    print("".join(each if each.isprintable() or each in "\n\t" else " " for each in execution.output))


@settings_command(app, USE)
def chat(chat: ChatOptions, device: DeviceOptions) -> None:
    """Answer questions typed at the terminal, and show the decision, the call, the tool's result and the answer."""
    from trice.cli.chat import chat as start
    from trice.cli.resolve import resolve_options

    resolved = resolve_options(chat)
    start(
        resolved.model, chat.adapter, resolved.task, resolved.template,
        max_new_tokens=chat.max_new_tokens, tools=chat.tool,
        answer_from_result=chat.answer_from_result, device=device.device, dtype=device.dtype,
    )  # fmt: skip


@settings_command(app, USE)
def serve(models: ServedModels, server: ServerOptions, device: DeviceOptions) -> None:
    """Serve models as an OpenAI-compatible endpoint that executes their tool calls, with a page to try them."""
    from trice.cli.resolve import resolve
    from trice.server import check_installed

    check_installed()
    from trice.server.limits import Limits
    from trice.server.startup import Access
    from trice.server.startup import serve as start

    resolved = resolve(models.model, models.task, models.template, models.adapter)
    limits = server.model_dump(
        include={"max_new_tokens", "max_prompt_tokens", "batch_size", "max_waiting", "timeout"}
    )
    start(
        resolved.model, models.adapter, resolved.task, models.template,
        access=Access(
            server.host, server.port, server.keys_file, tuple(server.allow_host), server.allow_anyone
        ),
        limits=Limits(**limits), tools=models.tool, answer_from_result=models.answer_from_result,
        questions=models.questions, device=device.device, dtype=device.dtype,
    )  # fmt: skip


@app.command(rich_help_panel=USE)
def push(
    adapter: Annotated[Path, typer.Argument(help="Folder of a trained adapter.")],
    repo: Annotated[str, typer.Argument(help="Repository on the hub: owner/name.")],
    base: Annotated[
        str | None, typer.Option(help="Name of the base model on the hub, if it was a folder.")
    ] = None,
    private: Annotated[bool, typer.Option(help="Create a private repository.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch of the repository; default main.")] = None,
) -> None:
    """Upload an adapter and its model card to the Hugging Face hub, in one commit.

    The token is that of `hf auth login` or HF_TOKEN."""
    from trice.training.hub import push as upload

    print(upload(adapter, repo, base=base, private=private, revision=revision))
