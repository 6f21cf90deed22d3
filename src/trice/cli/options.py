"""The command line's shared options: each means the same in every command that has it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trice.errors import InputError

Model = Annotated[str, typer.Option(help="Base model: hub name, folder, or gemma-3-270m (embedded).")]
ModelOf = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Base model: hub name, folder, or gemma-3-270m (embedded); default the adapter's own base.",
    ),
]
TaskOf = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="Task: math, qa, lama, mlqa, hotpot, mix, or your own as module:name or a .yaml file; default the "
        "adapter's own, without an adapter math.",
    ),
]
TemplateOf = Annotated[
    str | None,
    typer.Option(
        "--template",
        help="Prompt template: alpaca, vicuna, plain, chat (with arguments: chat:enable_thinking=false), or a "
        ".json file; default the adapter's own, without an adapter plain.",
    ),
]
TaskTaught = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="The task the data teach, recorded in the adapter, and that of --validation; default the shipped one "
        "whose instruction the data have.",
    ),
]
Reader = Annotated[
    str | None,
    typer.Option("--model", help="The model that reads what a tool returned, for qa, mlqa and hotpot."),
]
Adapter = Annotated[Path | None, typer.Option(help="LoRA adapter folder in PEFT's format.")]
Task = Annotated[
    str,
    typer.Option(
        help="Task: math, qa, lama, mlqa, hotpot, mix, or your own as module:name or a .yaml file; with "
        "@words-published at the end, answers in words are judged by the paper's rule."
    ),
]
Data = Annotated[Path, typer.Option(help="Input file, JSON lines.")]
Output = Annotated[Path, typer.Option(help="Where the result goes.")]
Template = Annotated[
    str,
    typer.Option(
        help="Prompt template: alpaca, vicuna, plain, chat, or a .json file. "
        "Arguments of the model's chat template follow its name: chat:enable_thinking=false."
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
RetryFailed = Annotated[
    bool, typer.Option(help="Ask again for the rows that failed; without it they stay as they are.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")]
Validation = Annotated[
    Path | None,
    typer.Option(help="Held-out questions of --task, answered every `validate_every` steps (--set)."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")]
Engine = Annotated[
    str,
    typer.Option(
        help="What runs the model: transformers, vllm, or the workers of a Ray cluster: ray, ray:vllm."
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Of a Ray cluster; default one for each GPU, else each machine.")
]
FewShot = Annotated[
    str | None, typer.Option(help="Worked examples in the prompt: direct, calls, mixed, or a .jsonl file.")
]
ToolChoice = Annotated[
    str,
    typer.Option(
        help="auto: the model decides; none: no call is possible; required: every response is a call."
    ),
]
Samples = Annotated[int, typer.Option(min=1, help="Responses for each question.")]
Beams = Annotated[int, typer.Option(min=1, help="Beams of a beam search; 1 is none.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 is greedy.")]
TopK = Annotated[int, typer.Option(min=0, help="Keep the k likeliest tokens; 0 keeps all.")]
TopP = Annotated[float, typer.Option(min=0.01, max=1, help="Keep the likeliest tokens of this mass.")]
RepetitionPenalty = Annotated[
    float,
    typer.Option(min=0.01, help="Above 1: tokens that were there already are less likely (paper: 1.3)."),
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Length limit of a response, in tokens.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Responses generated at a time.")]
Endpoint = Annotated[
    list[str] | None,
    typer.Option(
        help="URL of an OpenAI-compatible server, where --model is a name; several servers of it take turns."
    ),
]
EndpointSet = Annotated[
    list[str] | None,
    typer.Option(
        help="Any setting of the endpoint as key=value, for instance --endpoint-set max_requests=1000."
    ),
]
KeysFile = Annotated[
    Path | None,
    typer.Option(
        help="File of API keys, one a line, readable by you alone; else TRICE_API_KEYS or OPENAI_API_KEY."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any training setting as key=value, for instance --set lora.r=16."),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print what it would cost and whether it fits; load no weights and write nothing to --output.",
    ),
]
Tools = Annotated[
    list[str] | None,
    typer.Option(
        "--tool", help="What is behind a tool, as name=source, for instance --tool WikiSearch=my-index."
    ),
]


def sources(tools: list[str] | None) -> dict[str, str]:
    """The values of --tool by the tools' names. Raises InputError for one without a name or source."""
    pairs = [text.partition("=") for text in tools or ()]
    for text, (name, _, source) in zip(tools or (), pairs, strict=True):
        if not (name and source):
            raise InputError(f"--tool {text}: write it as name=source")
    return {name: source for name, _, source in pairs}
