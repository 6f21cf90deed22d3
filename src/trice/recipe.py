"""A recipe: one YAML file that says the whole loop, from data sets to report.

Every key is checked before anything runs; an unknown one is an error that names the nearest known one.
`key=value` overrides go down with dots (`clone.epochs=2`), values are YAML.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from trice.datasets import NAMES, TASKS
from trice.errors import InputError
from trice.journal import read_text
from trice.models.engine import Name as Engine
from trice.sampling import Sampling
from trice.tasks import SHIPPED
from trice.training.settings import Clone, Rlef, Settings, override, parse

Setting = Literal[
    "zero-shot", "few-shot", "tool-0", "tool-100", "stage-1", "stage-2", "both", "never", "always"
]
SETTINGS: tuple[Setting, ...] = (
    "zero-shot", "few-shot", "tool-0", "tool-100", "stage-1", "stage-2", "both",
)  # fmt: skip
COMPELLED: dict[str, Literal["call", "answer"]] = {"never": "answer", "always": "call"}


class DataSet(Settings):
    """A data set by name, or the user's own `train_file` and `test_file` under a new name. Sizes default to the
    paper's, or all rows; `scale` multiplies `train`, and `train: 0` keeps a data set unseen: it is only tested on.
    `task` is needed for own questions in a mix. `hub` fetches a benchmark from the Hugging Face hub instead
    of reading the official files under TRICE_DATA."""

    dataset: str
    task: str | None = None
    hub: bool = False
    train_file: Path | None = None
    test_file: Path | None = None
    train: int | None = Field(None, ge=0)
    test: int | None = Field(None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _own_task(cls, value: Any) -> Any:
        """A benchmark's task is known."""
        if isinstance(value, dict) and value.get("dataset") in TASKS:
            return {"task": TASKS[value["dataset"]], **value}
        return value

    @model_validator(mode="after")
    def _both_files(self) -> DataSet:
        if (self.train_file is None) != (self.test_file is None):
            raise ValueError("own questions need both 'train_file' and 'test_file'")
        if self.train_file and (self.dataset in NAMES or self.hub):
            raise ValueError(f"own questions need a name of their own, not '{self.dataset}', and no 'hub'")
        if self.train_file and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", self.dataset):
            raise ValueError(f"the data set's name '{self.dataset}': use letters, digits, '-' and '.'")
        return self


class Split(Settings):
    """How the base model is asked what it knows: worked examples with direct answers, or none."""

    examples: str | None = None
    max_new_tokens: int = Field(16, ge=1)


class EndpointAt(Settings):
    """An OpenAI-compatible endpoint; several URLs are servers of the same model, which take turns. Keys come from
    TRICE_API_KEYS, OPENAI_API_KEY or `keys_file`. `form: completions` is for one's own model, prompted in the
    recipe's template, by token ids where its `tokenizer` is named. What may be spent on one file is limited by
    `max_requests`, `max_tokens` and, with prices per million tokens, `max_cost`."""

    url: str | list[str]
    model: str
    keys_file: Path | None = None
    timeout: float = Field(60, gt=0)
    form: Literal["chat", "completions"] = "chat"
    tokenizer: str | None = None
    max_requests: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    max_cost: float | None = Field(None, gt=0)
    prompt_price: float = Field(0.0, ge=0)
    completion_price: float = Field(0.0, ge=0)

    def same(self) -> dict[str, Any]:
        """What may not change while work on it is under way: not what may be spent, the keys or the patience."""
        return self.model_dump(mode="json", include={"url", "model", "form", "tokenizer"})


class Label(Settings):
    """The teacher; an endpoint is asked again up to `retries` times for a rejected label, and told
    what to do by `prompt`, a file, instead of the prompt that ships. `reading` also teaches to
    answer from a tool's output, where that is no answer yet (not in the paper)."""

    teacher: Literal["annotations", "rule", "endpoint"] = "annotations"
    endpoint: EndpointAt | None = None
    retries: int = Field(2, ge=0)
    prompt: Path | None = None
    reading: bool = False

    @model_validator(mode="after")
    def _has_endpoint(self) -> Label:
        if self.teacher == "endpoint" and self.endpoint is None:
            raise ValueError("teacher 'endpoint' needs the key 'endpoint' with url and model")
        return self


class Origin(Settings):
    """Where candidates come from: `from` the base model, an early or the last checkpoint of stage 1, an
    endpoint, or any other `model`, with an `adapter` (any checkpoint's folder) and a `template` of its own."""

    origin: str
    source: Literal["base", "early", "stage-1", "model", "endpoint"] = Field(alias="from")
    endpoint: EndpointAt | None = None
    model: str | None = None
    adapter: Path | None = None
    template: str | None = None
    examples: str | None = None
    compel: Literal["call", "answer"] | None = None
    samples: int = Field(1, ge=1)
    beams: int = Field(1, ge=1)
    temperature: float = Field(0.0, ge=0)
    top_k: int = Field(0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _has_endpoint(self) -> Origin:
        if (self.source == "endpoint") != (self.endpoint is not None):
            raise ValueError("from 'endpoint', and only that, needs the key 'endpoint' with url and model")
        if self.endpoint and self.beams > 1:
            raise ValueError("'beams' is for local models, not for an endpoint")
        if (self.source == "model") != (self.model is not None):
            raise ValueError("from 'model', and only that, needs the key 'model'")
        if self.source != "model" and (self.adapter or self.template):
            raise ValueError("'adapter' and 'template' go with from 'model'")
        return self


class Score(Settings):
    """`reward`: paper, released, or module:function. `distinct` keeps one of several equal candidates.
    `second_turn`: the stage-1 model reads what a tool returned, where that is no answer yet; else a call is
    right where the output supports a gold answer."""

    reward: str = "paper"
    distinct: bool = True
    second_turn: bool = False


class Evaluation(Settings):
    """Which settings to train and evaluate. Seeds beyond the first repeat the trained stages 1 and both.
    `never` and `always` are the last stage's model again, made to answer without a tool or to call its
    task's tool each time."""

    settings: list[Setting] = Field(list(SETTINGS), min_length=1)
    seeds: list[int] = Field([0], min_length=1)
    few_shot: str = "mixed"


class Recipe(Settings):
    """The whole loop. `scale` is the one dial: it multiplies the training questions. `validation` holds so
    many training questions of each data set out. Where a stage has `validate_every`, its checkpoints are chosen by
    them; else, for tuning, they are evaluated on instead of the test questions.
    `task: mix` trains one model on several tasks; `per_task` then trains one for each (the paper's SPLIT).
    `tools` says what is behind a tool, by its name. `engine` runs the models that answer, on `workers` of a cluster
    where it is `ray` or `ray:vllm`."""

    name: str
    title: str = ""
    task: str = "math"
    per_task: bool = False
    tools: dict[str, str] = {}
    model: str
    template: str = "plain"
    output: Path | None = None
    scale: float = Field(1.0, gt=0)
    validation: int = Field(0, ge=0)
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    engine: Engine = "transformers"
    workers: int | None = Field(None, ge=1)
    batch_size: int = Field(128, ge=1)
    max_new_tokens: int = Field(64, ge=1)
    data: list[DataSet] = Field(min_length=1)
    split: Split = Split()
    label: Label = Label()
    clone: Clone = Clone()
    collect: list[Origin] = []
    score: Score = Score()
    rlef: Rlef = Rlef()
    evaluate: Evaluation = Evaluation()

    @model_validator(mode="before")
    @classmethod
    def _one_kind_of_lora(cls, value: Any) -> Any:
        """Both stages train the same LoRA layers, unless stage 2 is given its own."""
        parts = [value.get(key) or {} for key in ("clone", "rlef")] if isinstance(value, dict) else []
        if len(parts) == 2 and all(isinstance(part, dict) for part in parts) and "lora" in parts[0]:
            value = {**value, "rlef": {"lora": parts[0]["lora"], **parts[1]}}
        return value

    @model_validator(mode="after")
    def _no_name_twice(self) -> Recipe:
        # Files are called after data sets and origins.
        for key, names in (
            ("data", [entry.dataset for entry in self.data]),
            ("collect", ["gold", *(origin.origin for origin in self.collect)]),
        ):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"key '{key}': the name '{name}' is taken twice")
        return self

    @model_validator(mode="after")
    def _tasks_fit(self) -> Recipe:
        for entry in self.data:
            if self.task == "mix" and entry.task is None:
                raise ValueError(f"data set '{entry.dataset}': in a mix, own questions need the key 'task'")
            if self.task in SHIPPED and entry.task not in (None, self.task):
                raise ValueError(
                    f"data set '{entry.dataset}': is of task '{entry.task}', not '{self.task}'; see 'mix'"
                )
        if self.per_task and self.task != "mix":
            raise ValueError("key 'per_task': goes with task 'mix'")
        if all(entry.train == 0 for entry in self.data):
            raise ValueError("key 'data': there is nothing to train on")
        return self

    @model_validator(mode="after")
    def _something_to_validate_on(self) -> Recipe:
        for key, stage in (("clone", self.clone), ("rlef", self.rlef)):
            if stage.validate_every and not self.validation:
                raise ValueError(
                    f"key '{key}.validate_every': there are no held-out questions: say how many with 'validation'"
                )
        return self

    @property
    def tasks(self) -> str:
        """The task as the stages take it: a mix with the user's own ones behind it."""
        own = dict.fromkeys(str(entry.task) for entry in self.data if entry.task not in SHIPPED)
        return ",".join([self.task, *own]) if self.task == "mix" else self.task

    @property
    def trains(self) -> bool:
        """Whether a setting is more than the base model."""
        return not {"zero-shot", "few-shot"}.issuperset(self.evaluate.settings)

    @property
    def ranked(self) -> bool:
        """Whether a setting needs stage 2, and so candidates."""
        return not {"stage-2", "both"}.isdisjoint(self.evaluate.settings)

    @property
    def validates(self) -> bool:
        """Whether a stage chooses its checkpoint by the held-out questions, so that they are no test any more."""
        return bool(self.clone.validate_every or self.rlef.validate_every)

    @property
    def folder(self) -> Path:
        """Where the run lives: `output`, else `runs/<name>`."""
        return self.output or Path("runs") / self.name

    def sampling(self, **changes: Any) -> Sampling:
        """Greedy decoding with this recipe's length and seed, unless changed."""
        return Sampling(**({"max_new_tokens": self.max_new_tokens, "seed": self.seed} | changes))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a file, or one that ships with the package by its name (`demo`).

    Raises InputError with file and key for what does not fit.
    """
    shipped = resources.files("trice") / "recipes" / f"{name}.yaml"
    text = shipped.read_text("utf-8") if shipped.is_file() else read_text(Path(name))
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{name}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(value, dict):
        raise InputError(f"{name}: a recipe is a mapping of keys to values")
    for text in overrides:
        override(value, text)
    return parse(Recipe, value, name)


def dump_recipe(recipe: Recipe) -> str:
    """The recipe with every default filled in, as YAML."""
    return yaml.safe_dump(recipe.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)
