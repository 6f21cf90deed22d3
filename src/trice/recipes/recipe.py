"""A recipe: one YAML file that describes the whole loop, from data sets to report.

Every key is checked before anything runs; an unknown key is an error that names the nearest known one. `key=value`
overrides use dots for nested keys (`clone.learning_rate=1e-4`) and YAML for values.
`trice.recipes.runner` runs a recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from trice.datasets import NAMES
from trice.errors import InputError
from trice.models.engine import EngineName as Engine
from trice.recipes import shipped_recipes
from trice.recipes.conditions import DEFAULT, RANKED, REPEATED, Evaluation, Variant
from trice.recipes.sections import DEFAULT_ORIGINS, Calibrate, DataSet, Label, Origin, Score, Split
from trice.settings import FREE, Settings, nearest_key, override, parse
from trice.storage.files import read_text
from trice.tasks import CONVERSATION, PUBLISHED, SHIPPED, split_sources
from trice.training.settings import Clone, OnPolicy


class Recipe(Settings):
    """The whole loop."""

    name: str
    """the run's name, also of its folder under `runs/`"""
    title: Annotated[str, FREE] = ""
    """the report's heading; by default the name"""
    task: str = "math"
    """how questions are asked and judged, and which tool belongs to them: `math` (calculator), `qa`
    (WikiSearch), `lama` (QA), `mlqa` (translator), your own as `module:name` or a `.yaml` file, or `mix`"""
    judge: Literal["words", "words-published"] = "words"
    """how an answer in words is judged: `words` (a gold answer occurs as whole words in the first 20 words) or
    `words-published` (it occurs as a substring, as in the paper)"""
    per_task: bool = False
    """with `mix`: train a model for each task instead of one for all (the paper's SPLIT), in
    `models/<task>/<condition>`; data sets of a task without training questions are left out"""
    tools: dict[str, str] | list[dict[str, Any]] = {}
    """the source of a tool, by the tool's name, such as `{WikiSearch: passages.index, translator:
    facebook/nllb-200-distilled-600M}`; in a list, an entry `{mcp: COMMAND or URL}` adds the tools of an MCP server to
    the task"""
    model: str
    """base model: hub name, folder, or an embedded one, `gemma-3-270m` or `smollm2-135m-instruct`"""
    format: str = "paper"
    """how tool calls are written: `paper` (as text, `name(arguments)`) or `chat` (by the model's chat template, several
    of them and over several turns; arguments of the template follow: `chat:enable_thinking=false`)"""
    template: str | None = None
    """how prompts of the format `paper` are written: `plain` (the default, without the instruction, so tools are
    learned from training or few-shot examples alone), `alpaca`, `vicuna`, `chat` (the model's chat template), or a
    `.json` file of `prompt_input` and `prompt_no_input` with `{instruction}` and `{input}`, and optionally
    `response_prefix`, `example_end`, `stop`"""
    output: Annotated[Path | None, FREE] = None
    """the run's folder; by default `runs/<name>`"""
    scale: float = Field(1.0, gt=0)
    """multiplies `data.train`"""
    validation: int = Field(0, ge=0)
    """the number of training questions of each data set that are held out. If `clone` or `rlef` has
    `eval_steps`, they choose checkpoints; else they replace the test questions, for tuning"""
    seed: int = 0
    """the seed of splitting one file, of mixing and of generation"""
    device: Annotated[str, FREE] = "auto"
    """`auto` (CUDA if available, else the CPU), `cpu`, `cuda`, `cuda:1`, `mps`"""
    dtype: str = "auto"
    """the type of the weights: `auto` (bfloat16 or float32, whichever is faster on the device; on a CPU this is
    measured once), `float32`, `bfloat16`, `float16`"""
    engine: Engine = "transformers"
    """what generates responses: `transformers`, `vllm`, or the workers of a Ray cluster, `ray` (with
    transformers) and `ray:vllm`"""
    workers: Annotated[int | None, FREE] = Field(None, ge=1)
    """workers of a Ray cluster; by default one for each GPU, or one for each machine without a GPU"""
    generation_batch_size: Annotated[int, FREE] = Field(128, ge=1)
    """responses generated at a time; training has its own `batch_size`"""
    max_new_tokens: int = Field(64, ge=1)
    """length limit of a response, in tokens"""
    data: list[DataSet] = Field(min_length=1)
    split: Split = Split()
    label: Label = Label()
    clone: Clone = Clone()
    collect: list[Origin] = list(DEFAULT_ORIGINS)
    score: Score = Score()
    rlef: OnPolicy = OnPolicy()
    evaluate: Evaluation = Evaluation()
    calibrate: Calibrate = Calibrate()

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        """`data` may be one name or file, or a list of them. The default conditions of a user's task are those
        that need no worked examples."""
        if not isinstance(value, dict):
            return value
        data = value.get("data")
        if isinstance(data, str | Path):
            data = [data]
        if isinstance(data, list):
            value = {**value, "data": [_entry(each) for each in data]}
        known = (*(name for name in SHIPPED if name != CONVERSATION), "mix", None)
        evaluate = value.get("evaluate") or {}
        tasks = [value.get("task"), *(each.get("task") for each in data or () if isinstance(each, dict))]
        if isinstance(evaluate, dict) and "conditions" not in evaluate and any(t not in known for t in tasks):
            without = [condition for condition in DEFAULT if condition != "few-shot"]
            value = {**value, "evaluate": {**evaluate, "conditions": without}}
        return value

    @model_validator(mode="before")
    @classmethod
    def _one_kind_of_lora(cls, value: Any) -> Any:
        """Without a stage 1, stage 2 gets LoRA layers as stage 1 would, unless `rlef.lora` is given; else it trains
        those of stage 1."""
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
            folded = [name.casefold() for name in names]  # there are file systems without case
            for name in names[::-1]:
                if folded.count(name.casefold()) > 1:
                    raise ValueError(
                        f"key '{key}': two entries are named '{name}', apart from case; rename one"
                    )
        return self

    @model_validator(mode="after")
    def _tasks_fit(self) -> Recipe:
        for entry in self.data:
            if self.task == "mix" and entry.task is None:
                raise ValueError(
                    f"data set '{entry.dataset}': the key 'task' is missing; in a mix, files of questions need it"
                )
            if self.task in SHIPPED and entry.task not in (None, self.task):
                raise ValueError(
                    f"data set '{entry.dataset}': belongs to task '{entry.task}', not to '{self.task}'; choose task mix"
                )
        if self.per_task and self.task != "mix":
            raise ValueError("key 'per_task': applies to task mix only; leave it out")
        if self.per_task and self.label.prompt:
            raise ValueError("key 'label.prompt': is for one task; leave it out with per_task")
        if all(entry.train == 0 for entry in self.data):
            raise ValueError("key 'data': every data set has train: 0; give one questions to train on")
        return self

    @model_validator(mode="after")
    def _tools_are_valid(self) -> Recipe:
        try:
            split_sources(self.tools)
        except InputError as error:
            raise ValueError(f"key 'tools': {error}") from None
        return self

    @model_validator(mode="after")
    def _something_to_validate_on(self) -> Recipe:
        for key, stage in (("clone", self.clone), ("rlef", self.rlef)):
            if stage.eval_steps and not self.validation:
                raise ValueError(
                    f"key '{key}.eval_steps': needs held-out questions; set 'validation' to their number"
                )
        return self

    @model_validator(mode="after")
    def _every_key_has_an_effect(self) -> Recipe:
        label = self.label
        for key in ("endpoint", "prompt", "retries"):
            if label.teacher != "endpoint" and getattr(label, key) != Label.model_fields[key].default:
                raise ValueError(
                    f"key 'label.{key}': does not apply to teacher '{label.teacher}'; leave it out"
                )
        if self.workers and not self.engine.startswith("ray"):
            raise ValueError(
                f"key 'workers': does not apply to engine '{self.engine}'; leave it out, or use ray"
            )
        if self.rlef.rounds:
            self._refuse_offline_candidates()
        if self.calibrate.questions and not REPEATED.intersection(self.evaluate.conditions):
            raise ValueError(
                "key 'calibrate': is for the conditions 'stage-1' and 'both'; evaluate one, or leave it out"
            )
        if self.calibrate.questions and self.engine != "transformers":
            raise ValueError(
                f"key 'calibrate': needs P(call), which engine '{self.engine}' does not give; use 'transformers'"
            )
        for entry in self.data:
            if entry.has_feedback and not self.rlef.rounds:
                key = "feedback_file" if entry.feedback_file else "feedback"
                raise ValueError(
                    f"data set '{entry.dataset}': key '{key}': is for the rounds of stage 2; set rlef.rounds, or leave "
                    "it out"
                )
        if self.scale != 1 and not any(entry.train for entry in self.data):
            raise ValueError(
                "key 'scale': multiplies 'train', which no data set has; set it, or leave 'scale' out"
            )
        return self

    def _refuse_offline_candidates(self) -> None:
        """Rounds sample and score their own candidates, so what describes other candidates has no effect."""
        if self.collect and self.collect != list(DEFAULT_ORIGINS):
            raise ValueError("key 'collect': rounds sample their own candidates; leave it out (collect=[])")
        for key in type(self.score).model_fields:
            value = getattr(self.score, key)
            if value != type(self.score).model_fields[key].default and ":" not in str(value):
                raise ValueError(
                    f"key 'score.{key}': does not apply to rounds, which take a reward function or rlef.cost; leave it "
                    "out"
                )

    @model_validator(mode="after")
    def _candidates_have_one_format(self) -> Recipe:
        kind = self.format.partition(":")[0]
        for origin in self.collect:
            other = origin.format or ("paper" if origin.template else self.format)
            if other.partition(":")[0] != kind:
                raise ValueError(
                    f"key 'collect': origin '{origin.origin}' has the format {other}, and the recipe {self.format}; "
                    "training needs candidates of one format"
                )
        return self

    @property
    def tasks(self) -> str:
        """The name that `Tasks` takes: a mix is followed by the user's tasks and the judge's rule."""
        custom = dict.fromkeys(str(entry.task) for entry in self.data if entry.task not in SHIPPED)
        named = ",".join([self.task, *custom]) if self.task == "mix" else self.task
        return named + PUBLISHED if self.judge == "words-published" else named

    @property
    def trained(self) -> list[Variant]:
        """The variants to train, each after the one that it builds on."""
        return self.evaluate.trained(rounds=self.rlef.rounds > 0)

    @property
    def clones(self) -> bool:
        """Whether a variant needs the data of stage 1: all but `stage-2-alone` with rounds."""
        return bool(self.trained) and self.trained != [Variant("stage-2-alone")]

    @property
    def ranked(self) -> bool:
        """Whether a condition needs stage 2, and so candidates."""
        return not RANKED.isdisjoint(self.evaluate.conditions)

    @property
    def validates(self) -> bool:
        """Whether held-out questions choose checkpoints, so that they cannot be test questions."""
        return bool(self.clone.eval_steps or self.rlef.eval_steps)

    @property
    def folder(self) -> Path:
        """The run's folder: `output`, else `runs/<name>`."""
        return self.output or Path("runs") / self.name

    def parts(self) -> list[Recipe]:
        """The recipe itself; with `per_task`, one for each task that is trained on."""
        if not self.per_task:
            return [self]
        tasks = dict.fromkeys(str(entry.task) for entry in self.data if entry.train != 0)
        return [
            self.model_copy(
                update={"task": task, "data": [entry for entry in self.data if entry.task == task]}
            )
            for task in tasks
        ]


def _entry(value: Any) -> Any:
    """An entry of `data` that is a text: a file if it has a folder or an ending, else the name of a data set."""
    if not isinstance(value, str | Path):
        return value
    path = Path(value)
    is_file = path.is_file() or path.suffix or len(path.parts) > 1
    return {"file": str(path)} if is_file and str(value) not in NAMES else {"dataset": str(value)}


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a file, or one that ships with the package by its name (`demo`).

    Args:
        name: the file, or the name of a shipped recipe.
        overrides: `key=value` texts.

    Raises:
        InputError: there is no such recipe, or a key or value is not valid; the message names the file and the key.
    """
    shipped = shipped_recipes()
    path = shipped.get(name, Path(name))
    if not path.suffix and not path.exists():
        raise InputError(f"{name}: neither a file nor a shipped recipe; {nearest_key(name, [*shipped])}")
    text = read_text(path)
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
