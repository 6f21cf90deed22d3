"""The options of the commands, as settings classes.

Each class is a group of options, and a command takes the groups that it needs. A group takes the fields that a
recipe has as well from the recipe's classes, so that their type, default, bounds and help exist once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from trice.models.call_threshold import Signal
from trice.models.engine import EngineName, ToolChoice
from trice.recipes.conditions import Evaluation
from trice.recipes.recipe import Recipe
from trice.recipes.sections import Calibrate, EndpointAt, Label, Origin, Score, Split
from trice.server.limits import Limits
from trice.settings import Settings
from trice.stages.export_data import Form
from trice.stages.mix import Kind
from trice.training.settings import Clone, Rlef

__all__ = ["Clone", "Label", "Rlef", "Split"]  # the recipe's classes that are groups of options as they are


def same_as(kind: type[Settings], key: str) -> Any:
    """The field `key` of another settings class."""
    return kind.model_fields[key]


class Input(Settings):
    """The input of a command."""

    data: Path
    """Input file of JSON lines."""
    limit: int | None = Field(None, ge=1)
    """Use only the first rows, as many as this."""


class RetryInput(Input):
    """The input of a command that continues an earlier run."""

    retry_failed: bool = False
    """Retry the rows that failed in an earlier run. Without it, they stay as they are."""


class RetryInputOutput(RetryInput):
    """The input and the output of a command that continues an earlier run."""

    output: Path
    """Output file of JSON lines."""


class TaskOptions(Settings):
    """The task and the sources of its tools."""

    task: str = same_as(Recipe, "task")
    tool: dict[str, str] = {}
    """Source of a tool, for instance WikiSearch=my-index. Repeat the option for several tools."""


class LocalModelOptions(Settings):
    """A model, its task and its prompts."""

    model: str | None = None
    """Base model: a name on the Hugging Face hub, a folder, or one of the embedded models gemma-3-270m and
    smollm2-135m-instruct. With --adapter, the default is the adapter's base model."""
    adapter: Path | None = None
    """LoRA adapter folder in PEFT's format."""
    task: str | None = None
    """Task: math, qa, lama, mlqa, hotpot, conversation, mix, or your own as module:name or a .yaml file. The default
    is the adapter's task, without an adapter math."""
    format: str | None = None
    """How tool calls are written: paper (as text, name(arguments)) or chat (by the model's chat template, several of
    them and over several turns; with arguments: chat:enable_thinking=false). The default is the adapter's format,
    without an adapter paper."""
    template: str | None = None
    """How prompts of the format paper are written: plain, alpaca, vicuna, chat (the model's chat template) or a .json
    file. The default is the adapter's template, without an adapter plain."""
    tool: dict[str, str] = same_as(TaskOptions, "tool")


class ModelOptions(LocalModelOptions):
    """A local model or a model at an endpoint, where --model is its name."""

    endpoint: EndpointAt | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_at_the_endpoint(cls, value: Any) -> Any:
        endpoint, model = value.get("endpoint"), value.get("model")
        if isinstance(endpoint, dict) and model:
            return {**value, "endpoint": {"model": model, **endpoint}}
        return value


class ReaderOptions(Settings):
    """How the model reads what a tool returned."""

    few_shot: str | None = same_as(Origin, "few_shot")
    max_new_tokens: int = same_as(Recipe, "max_new_tokens")


class SamplingOptions(ReaderOptions):
    """How responses are generated."""

    tool_choice: ToolChoice = same_as(Origin, "tool_choice")
    samples: int = same_as(Origin, "samples")
    beams: int = same_as(Origin, "beams")
    temperature: float = same_as(Origin, "temperature")
    top_k: int = same_as(Origin, "top_k")
    top_p: float = same_as(Origin, "top_p")
    repetition_penalty: float = same_as(Origin, "repetition_penalty")
    seed: int = same_as(Recipe, "seed")


class DecisionOptions(Settings):
    """Whether a question is answered with a call."""

    call_threshold: str | None = None
    """With tool choice auto: a call is made if P(call) exceeds this, from 0 (always) to 1 (never); off leaves it to
    the model. The default is the threshold that `trice calibrate` saved with the adapter, without one off."""


class DeviceOptions(Settings):
    """Where a model runs."""

    device: str = same_as(Recipe, "device")
    dtype: str = same_as(Recipe, "dtype")


class EngineOptions(DeviceOptions):
    """Where and how responses are generated."""

    generation_batch_size: int = same_as(Recipe, "generation_batch_size")
    engine: EngineName = same_as(Recipe, "engine")
    workers: int | None = same_as(Recipe, "workers")

    @model_validator(mode="after")
    def _workers_of_a_cluster(self) -> EngineOptions:
        if self.workers and not self.engine.startswith("ray"):
            raise ValueError(f"--workers does not apply to --engine {self.engine}; leave it out, or use ray")
        return self


# The groups of a single command


class SplitOptions(Split):
    """The recipe's settings of split."""

    seed: int = same_as(Recipe, "seed")


class MixOptions(Settings):
    """The files that mix joins."""

    output: Path
    """Output file of JSON lines."""
    labelled: list[Path] = []
    """File of labeled questions. Repeat the option for several files."""
    right: list[Path] = []
    """File of questions that the model answered correctly. Repeat the option for several files."""
    questions: list[Path] = []
    """File of raw questions, for --kind answers. Repeat the option for several files."""
    kind: Kind = "selective"
    """Which data to write: selective, answers (the 0% tool baseline) or calls (the 100% tool baseline)."""
    seed: int = same_as(Recipe, "seed")


class CollectOptions(RetryInput):
    """The files that collect reads and writes."""

    output: Path
    """Folder of the candidates' files."""
    origin: str
    """Name of the origin of these candidates. The origin gold copies the gold responses and needs no model."""


class ScoreOptions(Settings):
    """What score reads and how it ranks."""

    data: Path
    """Folder with <task>_gold_response.json and the files of the other origins."""
    output: Path
    """Output file of JSON lines."""
    reward: str = same_as(Score, "reward")
    distinct: bool = same_as(Score, "distinct")


class EvaluateOptions(Input):
    """What evaluate reads and counts."""

    output: Path
    """Output file of JSON lines."""
    base: Path | None = None
    """The base model's evaluated responses, generated with --tool-choice none and the --few-shot of split. What it
    gets wrong needs a tool, so that over-use and under-use can be counted."""
    any_passage: bool = same_as(Evaluation, "any_passage")


class CalibrateOptions(Settings):
    """What calibrate reads, and what the threshold is chosen for."""

    data: Path
    """Held-out questions with answers, JSON lines. They must not be those that the model was trained on."""
    max_calls: float | None = same_as(Calibrate, "max_calls")
    min_accuracy: float | None = same_as(Calibrate, "min_accuracy")
    cost: float | None = same_as(Calibrate, "cost")
    signal: Signal = same_as(Calibrate, "signal")
    output: Path | None = None
    """Folder that keeps the responses, so that another aim generates nothing. The default is calibration in the
    adapter's folder."""


class ExportOptions(Settings):
    """What export reads and writes."""

    data: Path
    """Input file of labeled questions or candidates, JSON lines."""
    output: Path
    """Output file of JSON lines."""
    form: Form | None = None
    """Form of the rows. The default is completion for labeled questions and preference for candidates."""


class ImportOptions(Settings):
    """What import reads and writes."""

    data: Path
    """Input file of JSON lines in a form of TRL."""
    output: Path
    """Output file of JSON lines."""
    form: Literal["questions", "conversations"] | None = None
    """Import questions for trice run and trice split: with the last answer as the gold answer, or with the messages,
    tools and expected calls of conversations, for the chat template."""


class TrainOptions(Input):
    """What a stage of training reads and writes."""

    output: Path
    """Folder of the trained adapter."""
    model: str
    """Base model: a name on the Hugging Face hub, a folder, gemma-3-270m or smollm2-135m-instruct."""
    format: str | None = same_as(LocalModelOptions, "format")
    template: str | None = same_as(LocalModelOptions, "template")
    task: str | None = None
    """Task that the data teach and that --validation uses. The adapter records it. The default is the shipped task
    with the same instruction as the data."""
    validation: Path | None = None
    """Held-out questions of --task, which are answered every eval_steps steps."""
    tool: dict[str, str] = same_as(TaskOptions, "tool")
    max_new_tokens: int = same_as(Recipe, "max_new_tokens")
    seed: int = same_as(Recipe, "seed")
    dry_run: bool = False
    """Print what training would cost and whether it fits. Load no weights and write nothing to --output."""


class RlefOptions(TrainOptions):
    """What stage 2 reads and writes."""

    adapter: Path | None = None
    """Adapter of stage 1, a folder in PEFT's format."""


class ChatOptions(LocalModelOptions):
    """How chat answers."""

    max_new_tokens: int = same_as(Recipe, "max_new_tokens")
    answer_from_result: bool = False
    """The model reads a tool's result and answers in a sentence. A task can set this itself."""


class MergeOptions(Settings):
    """What merge reads and writes."""

    adapter: Path
    """LoRA adapter folder in PEFT's format."""
    output: Path
    """New folder of the merged model."""
    model: str | None = None
    """Base model. The default is the adapter's base model."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type of the written weights. The default is that of the base model's files."""


class ServedModels(Settings):
    """The models that serve offers."""

    model: str | None = same_as(ModelOptions, "model")
    adapter: list[Path] = []
    """LoRA adapter folder, served under the folder's name. Repeat the option for several adapters; each takes the
    memory of a whole model."""
    task: str | None = None
    """Task whose tools the server executes: math, qa, lama, mlqa, hotpot, mix, or your own as module:name or a .yaml
    file. The default is the task that the adapters record; without adapters it is math, or none in the format chat.
    In this format the clients' tools are offered too, and with conversation they are the only ones."""
    format: str | None = None
    """How tool calls are written. The default is each adapter's format, and for the base model that of the first
    adapter."""
    template: str | None = None
    """How prompts of the format paper are written. The default is each adapter's template, and for the base model that
    of the first adapter."""
    tool: dict[str, str] = same_as(TaskOptions, "tool")
    answer_from_result: bool = False
    """The model reads a tool's result and answers in a sentence. A task can set this itself."""
    questions: Path | None = None
    """Questions to try on the page: JSON lines with input and optionally task."""


class ServerOptions(Settings):
    """Where serve listens and whom it answers."""

    host: str = "127.0.0.1"
    """Address to listen on. Any other address than this machine's needs a key."""
    port: int = Field(8377, ge=0, le=65535)
    """Port to listen on. 0 takes a free one."""
    keys_file: Path | None = None
    """File of the clients' keys, one a line, that only you can read. The default is TRICE_SERVE_KEYS."""
    allow_anyone: bool = False
    """Answer other machines without a key."""
    allow_host: list[str] = []
    """Another host name that requests may use, for instance that of a proxy."""
    max_new_tokens: int = Field(Limits.max_new_tokens, ge=1)
    """Most tokens that a request may ask for."""
    max_prompt_tokens: int = Field(Limits.max_prompt_tokens, ge=1)
    """Longest prompt, in tokens."""
    batch_size: int = Field(Limits.batch_size, ge=1)
    """Responses generated at a time."""
    max_waiting: int = Field(Limits.max_waiting, ge=1)
    """Requests that may wait. Any more are refused."""
    timeout: float = Field(Limits.timeout, ge=0.1)
    """Seconds that a request may take, with its body."""
