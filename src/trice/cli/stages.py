"""The stages one by one, but for training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trice.cli import options as o
from trice.cli.app import STAGES, app
from trice.cli.model_spec import endpoint_of, meant, model_spec_of
from trice.errors import InputError
from trice.models.sampling import KNOWN, SPLIT_SAMPLES, SPLIT_TEMPERATURE


@app.command(rich_help_panel=STAGES)
def split(
    model: o.Model,
    data: o.Data,
    task: o.Task = "math",
    endpoint: o.Endpoint = None,
    keys_file: o.KeysFile = None,
    endpoint_set: o.EndpointSet = None,
    few_shot: o.FewShot = None,
    template: o.Template = "plain",
    max_new_tokens: o.MaxNewTokens = 64,
    samples: o.Samples = SPLIT_SAMPLES,
    temperature: Annotated[
        float, typer.Option(min=0, help="Of the samples after the greedy one.")
    ] = SPLIT_TEMPERATURE,
    known: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of right answers from which a question is known.")
    ] = KNOWN,
    batch_size: o.BatchSize = 128,
    tool: o.Tools = None,
    seed: o.Seed = 0,
    limit: o.Limit = None,
    retry_failed: o.RetryFailed = False,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    engine: o.Engine = "transformers",
    workers: o.Workers = None,
) -> None:
    """Let the base model answer every question with tools withheld, those it answers right several times: known and
    unknown ones go to <data>_right.json and _wrong.json."""
    from trice.stages.split import split as stage

    spec = model_spec_of(
        model, None, template, few_shot, "auto", batch_size, device, dtype, engine, workers,
        endpoint_of(endpoint, model, keys_file, endpoint_set), max_new_tokens=max_new_tokens, seed=seed,
    )  # fmt: skip
    print(stage(
        data, task, spec, samples=samples, temperature=temperature, known=known, tools=o.sources(tool),
        limit=limit, retry=retry_failed,
    ))  # fmt: skip


@app.command(rich_help_panel=STAGES)
def label(
    data: o.Data,
    output: o.Output,
    task: o.Task = "math",
    teacher: Annotated[
        str, typer.Option(help="annotations or rule (both offline), or endpoint.")
    ] = "annotations",
    endpoint: o.Endpoint = None,
    model: Annotated[str, typer.Option(help="The model's name at the endpoint.")] = "",
    keys_file: o.KeysFile = None,
    endpoint_set: o.EndpointSet = None,
    retries: Annotated[int, typer.Option(min=0, help="Ask the endpoint again for a rejected label.")] = 2,
    prompt: Annotated[
        Path | None, typer.Option(help="The endpoint's instruction and examples, JSON, instead of ours.")
    ] = None,
    reading: Annotated[
        bool, typer.Option(help="Also write <output>_reading.json: answers from outputs.")
    ] = False,
    tool: o.Tools = None,
    limit: o.Limit = None,
    retry_failed: o.RetryFailed = False,
) -> None:
    """Give questions a call from a teacher; each is executed and kept only if it gives the gold answer."""
    from trice.stages.label import label as stage
    from trice.stages.teachers import load_teacher

    if endpoint and teacher != "endpoint":
        raise InputError(f"--endpoint is for --teacher endpoint, not for '{teacher}'")
    client = endpoint_of(endpoint, model, keys_file, endpoint_set)
    chosen = load_teacher(teacher, task, client, retries, prompt)
    print(stage(
        data, output, task, chosen, reading=reading, tools=o.sources(tool), limit=limit, retry=retry_failed
    ))  # fmt: skip


@app.command(rich_help_panel=STAGES)
def mix(
    output: o.Output,
    labelled: Annotated[list[Path] | None, typer.Option(help="Files of labelled questions.")] = None,
    right: Annotated[list[Path] | None, typer.Option(help="Files of questions the model got right.")] = None,
    questions: Annotated[list[Path] | None, typer.Option(help="Raw questions, for --kind answers.")] = None,
    kind: Annotated[
        str, typer.Option(help="selective, answers (0% tool) or calls (100% tool).")
    ] = "selective",
    task: o.Task = "math",
    seed: o.Seed = 0,
) -> None:
    """Join right answers and labelled calls into one shuffled stage-1 file."""
    from trice.stages.mix import load_kind
    from trice.stages.mix import mix as stage

    rows = stage(
        labelled or [],
        output,
        task,
        right=right or [],
        kind=load_kind(kind),
        questions=questions or [],
        seed=seed,
    )
    print(f"{rows} questions in {output}")


@app.command(rich_help_panel=STAGES)
def collect(
    data: o.Data,
    output: Annotated[Path, typer.Option(help="Folder of the candidates' files.")],
    origin: Annotated[
        str, typer.Option(help="A name for where these candidates come from; 'gold' needs no model.")
    ],
    model: o.ModelOf = None,
    task: o.TaskOf = None,
    adapter: o.Adapter = None,
    endpoint: o.Endpoint = None,
    keys_file: o.KeysFile = None,
    endpoint_set: o.EndpointSet = None,
    few_shot: o.FewShot = None,
    tool_choice: o.ToolChoice = "auto",
    template: o.TemplateOf = None,
    samples: o.Samples = 1,
    beams: o.Beams = 1,
    temperature: o.Temperature = 0.0,
    top_k: o.TopK = 0,
    top_p: o.TopP = 1.0,
    repetition_penalty: o.RepetitionPenalty = 1.0,
    max_new_tokens: o.MaxNewTokens = 64,
    batch_size: o.BatchSize = 128,
    tool: o.Tools = None,
    seed: o.Seed = 0,
    limit: o.Limit = None,
    retry_failed: o.RetryFailed = False,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    engine: o.Engine = "transformers",
    workers: o.Workers = None,
) -> None:
    """Collect candidate responses from one origin into <output>/<task>_<origin>_response.json."""
    from trice.stages import collect as stage

    model, task, template = meant(adapter, model, task, template)
    if origin == "gold":
        print(stage.collect_gold(data, output, task, limit))
        return
    spec = model_spec_of(
        model, adapter, template, few_shot, tool_choice, batch_size, device, dtype, engine, workers,
        endpoint_of(endpoint, model, keys_file, endpoint_set),
        samples=samples, beams=beams, temperature=temperature, top_k=top_k, top_p=top_p,
        repetition_penalty=repetition_penalty, max_new_tokens=max_new_tokens, seed=seed,
    )  # fmt: skip
    rows = stage.collect(
        data, output, task, origin, spec, tools=o.sources(tool), limit=limit, retry=retry_failed
    )
    print(f"{len(rows)} responses in {stage.origin_path(output, task, origin)}")


@app.command(rich_help_panel=STAGES)
def score(
    data: Annotated[
        Path, typer.Option(help="Folder with <task>_gold_response.json and other origins' files.")
    ],
    output: o.Output,
    task: o.TaskOf = None,
    reward: Annotated[str, typer.Option(help="paper, released, or your own module:function.")] = "paper",
    distinct: Annotated[bool, typer.Option(help="Keep one of several candidates with the same text.")] = True,
    model: o.Reader = None,
    adapter: o.Adapter = None,
    template: o.TemplateOf = None,
    max_new_tokens: o.MaxNewTokens = 64,
    tool: o.Tools = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    engine: o.Engine = "transformers",
    workers: o.Workers = None,
) -> None:
    """Parse, execute and judge every candidate, and rank each question's by reward."""
    from trice.rewards import load_reward
    from trice.stages.score import score as stage
    from trice.tools.ray_executor import runner

    base, task, template = meant(adapter, model, task, template)
    reader = (model or adapter) and model_spec_of(
        base, adapter, template, None, "auto", 64, device, dtype, engine, workers,
        max_new_tokens=max_new_tokens,
    )  # fmt: skip
    rows = stage(
        data, output, task, reward=load_reward(reward), distinct=distinct, spec=reader or None, tools=o.sources(tool),
        runner=runner(engine, workers),
    )  # fmt: skip
    count = sum(len(row.candidates) for row in rows)
    print(f"{count} candidates of {len(rows)} questions in {output}")


@app.command(rich_help_panel=STAGES)
def generate(
    data: o.Data,
    output: o.Output,
    model: o.ModelOf = None,
    task: o.TaskOf = None,
    adapter: o.Adapter = None,
    endpoint: o.Endpoint = None,
    keys_file: o.KeysFile = None,
    endpoint_set: o.EndpointSet = None,
    few_shot: o.FewShot = None,
    tool_choice: o.ToolChoice = "auto",
    template: o.TemplateOf = None,
    samples: o.Samples = 1,
    beams: o.Beams = 1,
    temperature: o.Temperature = 0.0,
    top_k: o.TopK = 0,
    top_p: o.TopP = 1.0,
    repetition_penalty: o.RepetitionPenalty = 1.0,
    max_new_tokens: o.MaxNewTokens = 64,
    batch_size: o.BatchSize = 128,
    tool: o.Tools = None,
    seed: o.Seed = 0,
    limit: o.Limit = None,
    retry_failed: o.RetryFailed = False,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    engine: o.Engine = "transformers",
    workers: o.Workers = None,
) -> None:
    """Answer questions with a model; responses are written, not yet judged."""
    from trice.stages.generate import generate as stage

    if model is None and adapter is None:
        raise InputError("--model: is missing; name a model, or an --adapter, which records its base")
    model, task, template = meant(adapter, model, task, template)
    spec = model_spec_of(
        model, adapter, template, few_shot, tool_choice, batch_size, device, dtype, engine, workers,
        endpoint_of(endpoint, model, keys_file, endpoint_set),
        samples=samples, beams=beams, temperature=temperature, top_k=top_k, top_p=top_p,
        repetition_penalty=repetition_penalty, max_new_tokens=max_new_tokens, seed=seed,
    )  # fmt: skip
    rows = stage(data, output, task, spec, tools=o.sources(tool), limit=limit, retry=retry_failed)
    print(f"{len(rows)} responses in {output}")


@app.command(rich_help_panel=STAGES)
def evaluate(
    data: o.Data,
    output: o.Output,
    task: o.TaskOf = None,
    base: Annotated[
        Path | None,
        typer.Option(
            help="The base model's evaluated responses, generated with --tool-choice none and the --few-shot of "
            "split: what it gets wrong needs a tool; counts over- and under-use."
        ),
    ] = None,
    any_passage: Annotated[
        bool, typer.Option(help="Also ask --model over each passage alone, and count as the paper does.")
    ] = False,
    model: o.Reader = None,
    adapter: o.Adapter = None,
    endpoint: o.Endpoint = None,
    keys_file: o.KeysFile = None,
    endpoint_set: o.EndpointSet = None,
    few_shot: o.FewShot = None,
    template: o.TemplateOf = None,
    max_new_tokens: o.MaxNewTokens = 64,
    batch_size: o.BatchSize = 128,
    tool: o.Tools = None,
    limit: o.Limit = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    engine: o.Engine = "transformers",
    workers: o.Workers = None,
) -> None:
    """Execute and judge responses, and print accuracy and tool use with 95% intervals."""
    from trice.stages.evaluate import describe
    from trice.stages.evaluate import evaluate as stage
    from trice.tools.ray_executor import runner

    client = endpoint_of(endpoint, model or "", keys_file, endpoint_set)
    reads = model or adapter
    model, task, template = meant(adapter, model, task, template)
    reader = reads and model_spec_of(
        model, adapter, template, few_shot, "auto", batch_size, device, dtype, engine, workers, client,
        max_new_tokens=max_new_tokens,
    )  # fmt: skip
    print(describe(stage(
        data, output, task, base=base, spec=reader or None, tools=o.sources(tool), limit=limit,
        runner=runner(engine, workers), any_passage=any_passage,
    )))  # fmt: skip
