"""A model as the Python API hands it around: which one it is, how it is prompted, and its engine once it is loaded.

The weights are loaded at the first use and kept until `unload`. Training starts from the model's name and adapter,
and does not change the model: it gives another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

from trice.errors import InputError, check_number
from trice.formats.prompt import Example, Template, load_template, prompt_template
from trice.types import Execution, Outcome, Response, ToolCall

if TYPE_CHECKING:
    from trice.models.call_threshold import Calibration, CallThreshold
    from trice.models.endpoint import Endpoint
    from trice.models.engine import Engine, ToolChoice
    from trice.stages.model_spec import ModelSpec
    from trice.tasks import TaskLike

FewShot = str | Path | Sequence[tuple[str, str] | Mapping[str, str]] | None
"""Worked examples: pairs of question and response, or mappings of `input` and `output`; a file of these, or the name of
those that a shipped task has."""

Threshold: TypeAlias = "float | str | Calibration | None"
"""A call threshold: a number from 0 (always call) to 1 (never), the result of `trice.calibrate`, `off`, or None for the
one that is saved with the adapter."""


@dataclass
class Answer:
    """What a model answered to one question, and how it came to the answer.

    Attributes:
        text: The final answer: the model's text, a tool's output, the model's answer over that output, or a
            sentence that says why the tool gave no result.
        outcome: `answered`, `called` or `malformed`.
        response: The text the model wrote first.
        call: The tool call in it, with `name` and `arguments`.
        execution: What running the call gave: `output` or `error`.
        readings: What the model answered over the tool's output, for tools whose output it reads.
        messages: The same as messages of `role` and `content`, with `tool_calls`.
    """

    question: str
    text: str
    outcome: Outcome
    response: str
    call: ToolCall | None = None
    execution: Execution | None = None
    readings: list[str] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)

    def __str__(self) -> str:
        return self.text


@dataclass(eq=False)
class Model:
    """A local model, with or without a trained adapter, or a model behind an endpoint. `trice.load` and
    `trice.endpoint` make it."""

    name: str
    adapter: Path | None = None
    template: Template = field(default_factory=load_template)
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 128
    client: Endpoint | None = None
    _kept: TemporaryDirectory[str] | None = field(default=None, repr=False)  # a folder that lives as long

    @cached_property
    def engine(self) -> Engine:
        """What writes the responses, loaded."""
        from trice.stages.model_spec import open_engine

        return open_engine(self.spec(load=False))

    def unload(self) -> None:
        """Give the memory of the weights back; the next use loads them again."""
        vars(self).pop("engine", None)

    @property
    def loaded(self) -> bool:
        """Whether the weights are in memory."""
        return "engine" in vars(self)

    def spec(
        self,
        few_shot: FewShot = None,
        tool_choice: ToolChoice = "auto",
        *,
        load: bool = True,
        call_threshold: CallThreshold | None = None,
        **sampling: Any,
    ) -> ModelSpec:
        """How this model is asked, for the stages; its weights are loaded when the first response is written.
        Raises InputError for another tool choice, or an unknown setting of the sampling."""
        from trice.models.sampling import Sampling
        from trice.stages.model_spec import ModelSpec, check_model_spec, load_tool_choice

        load_tool_choice(tool_choice)
        known = [each.name for each in fields(Sampling)]
        for name in sampling:
            if name not in known:
                raise InputError(f"unknown argument '{name}'; choose from {', '.join(known)}")
        spec = ModelSpec(
            self.name, self.adapter, self.template, _examples(few_shot), tool_choice, Sampling(**sampling),
            self.batch_size, self.device, self.dtype, client=self.client, call_threshold=call_threshold,
        )  # fmt: skip
        check_model_spec(spec)
        return replace(spec, opened=lambda: self.engine) if load else spec

    def threshold(self, given: Threshold, tool_choice: ToolChoice = "auto") -> CallThreshold | None:
        """The call threshold that applies: the given one, else the one that is saved with the adapter. Raises
        InputError for an invalid value, and for one that is given with another tool choice than `auto`."""
        from trice.models.call_threshold import find_threshold

        if tool_choice != "auto":
            if given is not None:
                raise InputError(
                    f"call_threshold does not apply to tool choice '{tool_choice}'; leave it out"
                )
            return None
        return find_threshold(given, self.adapter, self.template)

    def ask(
        self,
        question: str,
        task: str | TaskLike,
        *,
        tool_choice: ToolChoice = "auto",
        call_threshold: Threshold = None,
        few_shot: FewShot = None,
        max_new_tokens: int = 64,
    ) -> Answer:
        """Answer one question greedily: write a response, run the call in it, and give the final answer.

        Args:
            question: Its text.
            task: A `trice.Task`, or the name of one that ships (`math`, `qa`, `lama`, `mlqa`, `hotpot`).
            tool_choice: `auto`, `none` or `required`.
            call_threshold: As in `trice.generate`.
            few_shot: Worked examples to put before the question.
            max_new_tokens: The longest response, in tokens.

        Returns:
            An `Answer`; printing it shows the final answer.

        Raises:
            InputError: If the task is not known or lacks something on this machine.
            ToolUnavailable: If the tool that is called cannot run.

        Example:
            >>> import trice
            >>> model = trice.load("gemma-3-270m")
            >>> str(model.ask("What is 12 * 34?", "math", tool_choice="required", few_shot="calls"))
            '408'
        """
        from trice.stages.generate import respond, with_instruction
        from trice.stages.grading import execute
        from trice.storage.files import validate
        from trice.tasks import MIXED, Tasks
        from trice.types import Question

        tasks = Tasks(task)
        threshold = self.threshold(call_threshold, tool_choice)
        spec = self.spec(few_shot, tool_choice, call_threshold=threshold, max_new_tokens=max_new_tokens)
        # The questions of a mix are all asked alike.
        named = {"id": "question", "input": question, "task": MIXED[0] if tasks.mixed else None}
        row = validate(Question, named, "question")
        (response,) = respond(self.engine, tasks, [with_instruction(row, tasks.of(row))], spec)

        def read_output(asked: Sequence[Question]) -> list[str]:
            again = self.spec("direct" if few_shot else None, max_new_tokens=max_new_tokens)
            return [each.response for each in respond(self.engine, tasks, asked, again)]

        (done,) = execute(tasks, [response], read_output)
        return answer_of(done.response, tasks.of(row))

    def merge(self, output: str | Path, *, dtype: str | None = None) -> Path:
        """Write the model with its adapter merged, for transformers, vLLM and other programs.

        Args:
            output: A new folder.
            dtype: `float32`, `bfloat16` or `float16`. By default it is the type of the base model's files.

        Returns:
            The folder.

        Raises:
            InputError: If the model has no adapter, or the folder exists.
        """
        from trice.models.merged_model import write_merged

        if self.adapter is None:
            raise InputError(f"model '{self.name}' has no adapter to merge")
        return write_merged(self.adapter, Path(output), self.name, dtype=dtype)


def answer_of(row: Response, task: TaskLike) -> Answer:
    """An executed response as an answer."""
    from trice.stages.chat_responses import prompt_messages
    from trice.stages.conversations import assistant_message
    from trice.tasks.final_answer import final_text

    assert row.outcome is not None
    text = final_text(row, task)
    messages = [message.for_template() for message in (*prompt_messages(row), *(row.completion or ()))]
    if row.completion is None:
        messages.append(assistant_message(task.tools, row.response))
        messages += [{"role": "tool", "content": result} for result in row.results]
        if row.turns:
            messages.append({"role": "assistant", "content": text})
    return Answer(
        row.input, text, row.outcome, row.response, row.call, row.execution, row.turns or [], messages
    )


def load(
    name: str | Path,
    adapter: str | Path | None = None,
    *,
    format: str | None = None,
    template: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 128,
) -> Model:
    """A local model, with or without a LoRA adapter. Its weights are loaded at the first use.

    Args:
        name: The name of a model on the Hugging Face hub, a folder, an embedded model (`gemma-3-270m` or
            `smollm2-135m-instruct`), or the folder of an adapter, which knows its base model.
        adapter: The folder of an adapter.
        format: How tool calls are written: `paper` (as text, `name(arguments)`) or `chat` (by the model's chat
            template, several of them and over several turns). The default is the adapter's format, or `paper`.
        template: How prompts of the format `paper` are written: `plain`, `alpaca`, `vicuna`, `chat` (the
            tokenizer's chat template) or a JSON file. The default is the adapter's template, or `plain`.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        batch_size: Responses that are written at the same time.

    Returns:
        A `Model`.

    Raises:
        InputError: If there is no such model or adapter, or they do not belong together.

    Example:
        >>> import trice
        >>> trice.load("gemma-3-270m").name
        'gemma-3-270m'
    """
    from trice.models.adapters import CONFIG, AdapterRecord, adapter_record
    from trice.models.local import check_model, pick_device, resolve_dtype

    if adapter is None and (Path(name) / CONFIG).is_file():
        name, adapter = "", name
    folder = Path(adapter) if adapter is not None else None
    recorded = adapter_record(folder) if folder else AdapterRecord()
    model = str(name or recorded.model or "")
    if not model:
        where = f"{folder}: does not record its base model" if folder else "a model needs a name"
        raise InputError(f"{where}; give it as the name")
    check_model(model, folder)
    check_number("batch_size", batch_size, int, least=1)
    resolve_dtype(dtype, device)
    pick_device(device)
    return Model(model, folder, recorded.prompt_template(format, template), device, dtype, batch_size)


def endpoint(
    url: str | Sequence[str],
    model: str,
    *,
    format: str | None = None,
    template: str | None = None,
    keys_file: Path | None = None,
    **settings: Any,
) -> Model:
    """A model behind an OpenAI-compatible endpoint.

    Args:
        url: The address that ends in `/v1`, or several of them, which share the requests.
        model: The model's name there.
        format: How tool calls are written: `paper` (the default) or `chat`, as in `trice.load`.
        template: With `api="completions"` and the format `paper`, how prompts are written.
        keys_file: A private file of API keys, one on each line. Without it the environment variable
            `TRICE_API_KEYS` is read.
        settings: Keys of a recipe's `endpoint`, such as `api`, `timeout`, `max_requests` or `max_cost`.

    Returns:
        A `Model`. It can be asked and evaluated, not trained.

    Raises:
        InputError: If a setting is not known or the address cannot be meant.

    Example:
        >>> import trice
        >>> trice.endpoint("http://localhost:8000/v1", "qwen3").name
        'qwen3'
    """
    from trice.recipes.sections import EndpointAt
    from trice.settings import parse

    value = {"url": url, "model": model, "keys_file": keys_file, **settings}
    return Model(
        model,
        template=prompt_template(format, template),
        client=parse(EndpointAt, value, "trice.endpoint").open(),
    )


def require_model(model: object, name: str = "model") -> Model:
    """The model, or an InputError that says what to give instead."""
    if isinstance(model, Model):
        return model
    hint = f"; trice.load({model!r}) makes one" if isinstance(model, str) else ""
    raise InputError(f"{name}: expected a model of trice.load or trice.endpoint, not {model!r}{hint}")


def _examples(few_shot: FewShot) -> str | tuple[Example, ...] | None:
    if few_shot is None or isinstance(few_shot, str):
        return few_shot
    if isinstance(few_shot, Path):
        return str(few_shot)
    try:
        pairs = [(row["input"], row["output"]) if isinstance(row, Mapping) else row for row in few_shot]
        return tuple(Example(str(question), str(response)) for question, response in pairs)
    except (KeyError, TypeError, ValueError):
        raise InputError(
            "few_shot: expected pairs of a question and a response, or rows with 'input' and 'output'"
        ) from None
