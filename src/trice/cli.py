"""The command line: parses, calls a stage, prints in short. No logic lives here.

Results go to files and, in short, to stdout; notices go to stderr. Exit codes: 0 done, 2 the input or the
call is wrong, 1 something failed; either way one line on stderr and no traceback.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trice import options as o
from trice.errors import InputError, TriceError
from trice.journal import first_process

if TYPE_CHECKING:
    from trice.models.endpoint import Endpoint
    from trice.stages.generate import Asking

CTRL_C = 130  # what newer versions of typer return where older ones raise

app = typer.Typer(
    help="Teach a language model when and how to use tools, from the tools' own results.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
train = typer.Typer(help="Train a LoRA adapter: clone (stage 1) or rlef (stage 2).", no_args_is_help=True)
app.add_typer(train, name="train")


@app.command()
def demo(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE …]")] = None,
) -> None:
    """The whole loop on the starter set with Gemma 3 270M: `trice run` of the recipe that ships as demo."""
    run("demo", overrides)


@app.command()
def run(
    recipe: Annotated[
        str, typer.Argument(help="A recipe file, or the name of one that ships (demo, real-math, real-mix).")
    ],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE …]")] = None,
    status: Annotated[
        bool, typer.Option(help="Only say how far each step is; the run may be going on elsewhere.")
    ] = False,
    retry_failed: o.RetryFailed = False,
) -> None:
    """Run a recipe from data to report; run again after a kill, it goes on where it was."""
    from trice.recipe import load_recipe
    from trice.report import summary
    from trice.run import run as run_recipe
    from trice.run import status as run_status

    chosen = load_recipe(recipe, overrides or ())
    if status:
        print("\n".join(run_status(chosen)))
        return
    folder = run_recipe(chosen, retry=retry_failed)
    print(summary(folder))
    print(f"report: {folder / 'report.html'}")


@app.command()
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
    from trice.stages.data import index, listing, prepare

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


@app.command()
def split(
    model: o.Model,
    data: o.Data,
    task: o.Task = "math",
    endpoint: o.Endpoint = None,
    keys_file: o.KeysFile = None,
    endpoint_set: o.EndpointSet = None,
    examples: o.Examples = None,
    template: o.Template = "plain",
    max_new_tokens: o.MaxNewTokens = 16,
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
    """Let the base model answer every question: right and wrong go to <data>_right.json and _wrong.json."""
    from trice.stages.split import split as stage

    asking = _asking(
        model, None, template, examples, None, batch_size, device, dtype, engine, workers,
        _endpoint(endpoint, model, keys_file, endpoint_set), max_new_tokens=max_new_tokens, seed=seed,
    )  # fmt: skip
    print(stage(data, task, asking, tools=o.sources(tool), limit=limit, retry=retry_failed))


@app.command()
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
    client = _endpoint(endpoint, model, keys_file, endpoint_set)
    chosen = load_teacher(teacher, task, client, retries, prompt)
    print(stage(
        data, output, task, chosen, reading=reading, tools=o.sources(tool), limit=limit, retry=retry_failed
    ))  # fmt: skip


@app.command()
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


@app.command()
def collect(
    data: o.Data,
    output: Annotated[Path, typer.Option(help="Folder of the candidates' files.")],
    origin: Annotated[
        str, typer.Option(help="A name for where these candidates come from; 'gold' needs no model.")
    ],
    model: o.Model = "gemma-3-270m",
    task: o.Task = "math",
    adapter: o.Adapter = None,
    endpoint: o.Endpoint = None,
    keys_file: o.KeysFile = None,
    endpoint_set: o.EndpointSet = None,
    examples: o.Examples = None,
    compel: o.Compel = None,
    template: o.Template = "plain",
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

    if origin == "gold":
        print(stage.collect_gold(data, output, task, limit))
        return
    asking = _asking(
        model, adapter, template, examples, compel, batch_size, device, dtype, engine, workers,
        _endpoint(endpoint, model, keys_file, endpoint_set),
        samples=samples, beams=beams, temperature=temperature, top_k=top_k, top_p=top_p,
        repetition_penalty=repetition_penalty, max_new_tokens=max_new_tokens, seed=seed,
    )  # fmt: skip
    rows = stage.collect(
        data, output, task, origin, asking, tools=o.sources(tool), limit=limit, retry=retry_failed
    )
    print(f"{len(rows)} responses in {stage.origin_path(output, task, origin)}")


@app.command()
def score(
    data: Annotated[
        Path, typer.Option(help="Folder with <task>_gold_response.json and other origins' files.")
    ],
    output: o.Output,
    task: o.Task = "math",
    reward: Annotated[str, typer.Option(help="paper, released, or your own module:function.")] = "paper",
    distinct: Annotated[bool, typer.Option(help="Keep one of several candidates with the same text.")] = True,
    model: o.Reader = None,
    adapter: o.Adapter = None,
    template: o.Template = "plain",
    max_new_tokens: o.MaxNewTokens = 64,
    tool: o.Tools = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    engine: o.Engine = "transformers",
    workers: o.Workers = None,
) -> None:
    """Parse, execute and judge every candidate, and rank each question's by reward."""
    from trice.stages.score import score as stage
    from trice.tools.cluster import runner

    reader = model and _asking(
        model, adapter, template, None, None, 64, device, dtype, engine, workers,
        max_new_tokens=max_new_tokens,
    )  # fmt: skip
    rows = stage(
        data, output, task, reward=reward, distinct=distinct, asking=reader or None, tools=o.sources(tool),
        runner=runner(engine, workers),
    )  # fmt: skip
    count = sum(len(row.responses) for row in rows)
    print(f"{count} candidates of {len(rows)} questions in {output}")


def _tell(trained: Path) -> None:
    """The finished adapter, once where several processes trained it."""
    if first_process():
        print(trained)


@train.command()
def clone(
    model: o.Model,
    data: o.Data,
    output: o.Output,
    template: o.Template = "plain",
    validation: o.Validation = None,
    task: o.Task = "math",
    tool: o.Tools = None,
    max_new_tokens: o.MaxNewTokens = 64,
    set_: o.Set = None,
    seed: o.Seed = 0,
    limit: o.Limit = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    dry_run: o.DryRun = False,
) -> None:
    """Stage 1: fine-tune on each question's gold response (defaults are the paper's)."""
    from trice.training.clone import clone as stage
    from trice.training.clone import examples
    from trice.training.settings import Clone, read_settings

    settings = read_settings(Clone, set_ or [])
    if dry_run:
        validated = (settings, validation, task, o.sources(tool), max_new_tokens)
        _dry_run(examples(data, template, limit), model, None, settings, validated, seed, device, dtype)
        return
    trained = stage(
        data, output, model, settings=settings, template=template,
        validation=validation, task=task, tools=o.sources(tool), max_new_tokens=max_new_tokens,
        seed=seed, limit=limit, device=device, dtype=dtype,
    )  # fmt: skip
    _tell(trained)


@train.command()
def rlef(
    model: o.Model,
    data: o.Data,
    output: o.Output,
    adapter: o.Adapter = None,
    alpha: Annotated[float, typer.Option(min=0, help="Weight of the ranking loss.")] = 1.0,
    template: o.Template = "plain",
    validation: o.Validation = None,
    task: o.Task = "math",
    tool: o.Tools = None,
    max_new_tokens: o.MaxNewTokens = 64,
    set_: o.Set = None,
    seed: o.Seed = 0,
    limit: o.Limit = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    dry_run: o.DryRun = False,
) -> None:
    """Stage 2: rank candidates in the order of their rewards, from the stage-1 adapter."""
    from trice.training.rlef import examples
    from trice.training.rlef import rlef as stage
    from trice.training.settings import Rlef, read_settings

    settings = read_settings(Rlef, [f"alpha={alpha}", *(set_ or [])])
    if dry_run:
        validated = (settings, validation, task, o.sources(tool), max_new_tokens)
        _dry_run(examples(data, template, limit), model, adapter, settings, validated, seed, device, dtype)
        return
    trained = stage(
        data, output, model, adapter, settings=settings, template=template,
        validation=validation, task=task, tools=o.sources(tool), max_new_tokens=max_new_tokens,
        seed=seed, limit=limit, device=device, dtype=dtype,
    )  # fmt: skip
    _tell(trained)


@app.command()
def generate(
    model: o.Model,
    data: o.Data,
    output: o.Output,
    task: o.Task = "math",
    adapter: o.Adapter = None,
    endpoint: o.Endpoint = None,
    keys_file: o.KeysFile = None,
    endpoint_set: o.EndpointSet = None,
    examples: o.Examples = None,
    compel: o.Compel = None,
    template: o.Template = "plain",
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

    asking = _asking(
        model, adapter, template, examples, compel, batch_size, device, dtype, engine, workers,
        _endpoint(endpoint, model, keys_file, endpoint_set),
        beams=beams, temperature=temperature, top_k=top_k, top_p=top_p,
        repetition_penalty=repetition_penalty, max_new_tokens=max_new_tokens, seed=seed,
    )  # fmt: skip
    rows = stage(data, output, task, asking, tools=o.sources(tool), limit=limit, retry=retry_failed)
    print(f"{len(rows)} responses in {output}")


@app.command()
def evaluate(
    data: o.Data,
    output: o.Output,
    task: o.Task = "math",
    base: Annotated[
        Path | None, typer.Option(help="Evaluated responses of the base model, to count over- and under-use.")
    ] = None,
    model: o.Reader = None,
    adapter: o.Adapter = None,
    endpoint: o.Endpoint = None,
    keys_file: o.KeysFile = None,
    endpoint_set: o.EndpointSet = None,
    examples: o.Examples = None,
    template: o.Template = "plain",
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
    from trice.tools.cluster import runner

    client = _endpoint(endpoint, model or "", keys_file, endpoint_set)
    reader = model and _asking(
        model, adapter, template, examples, None, batch_size, device, dtype, engine, workers, client,
        max_new_tokens=max_new_tokens,
    )  # fmt: skip
    print(describe(stage(
        data, output, task, base=base, asking=reader or None, tools=o.sources(tool), limit=limit,
        runner=runner(engine, workers),
    )))  # fmt: skip


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A run's folder.")]) -> None:
    """Write report.html, report.md and results.json of a run."""
    from trice.report import summary, write_report

    path = write_report(folder)
    print(summary(folder))
    print(f"report: {path}")


@app.command(context_settings={"ignore_unknown_options": True})  # "-5+3" is no option
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


@app.command()
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


def _dry_run(
    examples: Any, model: str, adapter: Path | None, settings: Any, validated: tuple[Any, ...],
    seed: int, device: str, dtype: str,
) -> None:  # fmt: skip
    from trice.training.plan import plan
    from trice.training.validation import load_validation

    load_validation(*validated)
    made = plan(examples, model, adapter, settings, seed=seed, device=device, dtype=dtype)
    print("\n".join(made.lines()))
    if made.advice:
        raise InputError(made.advice)


def _asking(
    model: str, adapter: Path | None, template: str, examples: str | None, compel: str | None,
    batch_size: int, device: str, dtype: str, engine: str, workers: int | None,
    client: Endpoint | None = None, **sampling: Any,
) -> Asking:  # fmt: skip
    from trice.sampling import Sampling
    from trice.stages.generate import Asking, load_compel

    return Asking(
        model,
        adapter,
        template,
        examples,
        load_compel(compel),
        Sampling(**sampling),
        batch_size,
        device,
        dtype,
        engine,
        workers,
        client,
    )


def _endpoint(
    urls: list[str] | None, model: str, keys_file: Path | None, settings: list[str] | None
) -> Endpoint | None:
    """A client of the servers, None where there are none."""
    from trice.given import open_endpoint
    from trice.recipe import EndpointAt
    from trice.training.settings import override, parse

    value: dict[str, Any] = {"url": urls, "model": model, "keys_file": keys_file}
    for text in settings or ():
        override(value, text)
    if urls:
        return open_endpoint(parse(EndpointAt, value, "--endpoint-set"))
    if settings or keys_file:
        raise InputError("--endpoint-set and --keys-file go with --endpoint")
    return None


def main() -> None:
    """Run the command line; every expected failure is one line and an exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore", FutureWarning)  # libraries' advice to our developers, not to users
    try:
        if app(standalone_mode=False) == CTRL_C:
            raise KeyboardInterrupt
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except InputError as error:
        _fail(str(error), 2)
    except TriceError as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        _fail("stopped; what is done is kept, run the same command again to go on", 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 1)
    except Exception as error:
        # Usage errors come as typer's or as click's own class, depending on the version.
        if hasattr(error, "format_message"):
            _fail(error.format_message() or "say which command; those there are stand above", 2)
        if os.environ.get("TRICE_DEBUG"):
            raise
        _fail(f"{type(error).__name__}: {error} (TRICE_DEBUG=1 shows where)", 1)


def _fail(line: str, code: int) -> None:
    # Names and values out of files stand in it: no character of theirs may steer the terminal.
    printable = "".join(character if character.isprintable() else " " for character in line)
    print(f"trice: {' '.join(printable.split())}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
