"""Tools and trained models: run a tool, chat, serve, merge, push to the hub."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trice.cli.app import USE, app, printable
from trice.cli.settings_command import settings_command
from trice.errors import InputError, TriceError

if TYPE_CHECKING:
    from trice.cli.options import (
        ChatOptions,
        DecisionOptions,
        DeviceOptions,
        MergeOptions,
        ServedModels,
        ServerOptions,
    )
    from trice.tools import Tool


@app.command(rich_help_panel=USE, context_settings={"ignore_unknown_options": True})  # "-5+3" is no option
def tool(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Tool: calculator, WikiSearch, QA, translator, retriever, or your own as module:name. With --mcp a "
            "tool of the server; without a name, its tools are listed.",
            show_default=False,
        ),
    ] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ARGUMENTS", help="Arguments of the call, as one quoted text.", show_default=False
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="Source of the tool's answers: an index (of `trice data index`), a model or a URL."
        ),
    ] = None,
    mcp: Annotated[
        str | None, typer.Option(help="MCP server that has the tool: the command that starts it, or its URL.")
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(help="With a command for --mcp: name of an environment variable that the server gets."),
    ] = None,
    token_env: Annotated[
        str | None,
        typer.Option(
            help="With a URL for --mcp: name of the environment variable that holds the bearer token."
        ),
    ] = None,
) -> None:
    """Run a tool once. Only its output goes to stdout."""
    from trice.tools import load_tool

    if mcp is None:
        for flag, value in {"--env": env, "--token-env": token_env}.items():
            if value:
                raise InputError(f"{flag} does not apply without --mcp; leave it out")
        if not (name and arguments):
            raise InputError("missing argument; write trice tool NAME ARGUMENTS, or trice tool --mcp SERVER")
        _run_tool(load_tool(name, source), arguments)
        return
    if source is not None:
        raise InputError("--source does not apply to --mcp; leave it out")
    from trice.tools.mcp import mcp as connect

    tools = {tool.name: tool for tool in connect(mcp, env=env or (), token_env=token_env)}
    if name is None:
        print("\n\n".join(map(_described, tools.values())))
    elif name in tools:
        _run_tool(tools[name], arguments or [""])
    else:
        raise InputError(f"unknown tool '{name}'; the server has {', '.join(tools)}")


def _run_tool(tool: Tool, arguments: list[str]) -> None:
    from trice.tools import read_failure
    from trice.tools.worker_pool import run
    from trice.types import ToolCall

    if len(arguments) > 1:
        quoted = f"trice tool {tool.name} '{', '.join(arguments)}'"
        raise InputError(f"tool takes one text, not {len(arguments)}; quote it: {quoted}")
    tool.check()
    try:
        values = tool.parse(arguments[0])
    except ValueError as error:
        raise InputError(f"{tool.name}: {error}") from None
    execution = run(tool, ToolCall(name=tool.name, arguments=values))
    if execution.output is None:
        reason, kind = read_failure(str(execution.error))
        raise TriceError(f"{tool.name}: {reason or 'failed'}{f' ({kind})' if kind else ''}")
    print(printable(execution.output, "\n\t"))


def _described(tool: Tool) -> str:
    """A tool of an MCP server with its description and its arguments."""
    properties, required = tool.schema.get("properties") or {}, tool.schema.get("required") or []
    lines = [
        f"{tool.name}({', '.join(properties)})",
        *(f"  {line}" for line in tool.description.splitlines()),
    ]
    for name, schema in properties.items():
        schema = schema if isinstance(schema, dict) else {}
        kind = " or ".join(map(json.dumps, schema.get("enum", []))) or str(schema.get("type", "any"))
        notes = kind if name in required else f"{kind}, optional"
        lines.append(
            f"  {name} ({notes}): {' '.join(str(schema.get('description', '')).split())}".rstrip(": ")
        )
    return printable("\n".join(lines), "\n\t")


@settings_command(app, USE)
def chat(chat: ChatOptions, decision: DecisionOptions, device: DeviceOptions) -> None:
    """Answer questions typed at the terminal, and show the decision, the call, the tool's result and the answer."""
    from trice.cli.chat import chat as start
    from trice.cli.resolve import resolve_options

    resolved = resolve_options(chat)
    start(
        resolved.model, chat.adapter, resolved.task, resolved.template,
        max_new_tokens=chat.max_new_tokens, tools=chat.tool,
        answer_from_result=chat.answer_from_result, call_threshold=decision.call_threshold,
        device=device.device, dtype=device.dtype,
    )  # fmt: skip


@settings_command(app, USE)
def serve(
    models: ServedModels, decision: DecisionOptions, server: ServerOptions, device: DeviceOptions
) -> None:
    """Serve models as an OpenAI-compatible endpoint that executes their tool calls, with a page to try them."""
    from trice.cli.resolve import resolve
    from trice.server import check_installed

    check_installed()
    from trice.server.limits import Limits
    from trice.server.model_registry import NO_TASK, open_registry
    from trice.server.startup import Access
    from trice.server.startup import serve as start

    free = models.task is None and _need_no_task(models)
    task = NO_TASK.name if free else models.task
    resolved = resolve(models.model, task, models.format, models.template, models.adapter)
    limits = server.model_dump(
        include={"max_new_tokens", "max_prompt_tokens", "batch_size", "max_waiting", "timeout"}
    )
    open_models = partial(
        open_registry, resolved.model, models.adapter, None if free else resolved.task,
        **models.model_dump(include={"format", "template", "questions", "answer_from_result"}),
        tools=models.tool, call_threshold=decision.call_threshold, device=device.device, dtype=device.dtype,
    )  # fmt: skip
    access = Access(server.host, server.port, server.keys_file, tuple(server.allow_host), server.allow_anyone)
    start(open_models, access, Limits(**limits))


def _need_no_task(models: ServedModels) -> bool:
    """Whether the tools are the clients': all models have the format `chat`, and no adapter records a task."""
    from trice.formats.prompt import CHAT
    from trice.models.adapters import AdapterRecord, adapter_record

    records = [adapter_record(adapter) for adapter in models.adapter] or [AdapterRecord()]
    templates = [record.prompt_template(models.format, models.template) for record in records]
    return all(each.format == CHAT for each in templates) and not any(record.task for record in records)


@settings_command(app, USE)
def merge(files: MergeOptions) -> None:
    """Write a model with its adapter merged, for transformers, vLLM and other programs."""
    from trice.models.merged_model import write_merged

    print(write_merged(files.adapter, files.output, files.model, dtype=files.dtype))


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
