"""Hyper-parameters of both stages, as recipes and the command line give them. Defaults are the paper's.

Imports nothing heavy, so that a recipe can be checked before torch is loaded.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from trice.errors import InputError

SettingsT = TypeVar("SettingsT", bound="Settings")
Scheduler = Literal["linear", "cosine", "polynomial", "inverse_sqrt", "constant", "constant_with_warmup"]
RankingObjective = Literal["rank", "weighted", "dpo", "listwise"]


class Settings(BaseModel):
    """A group of settings: immutable, and an unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Lora(Settings):
    """LoRA on `targets`: module names, or `all-linear`. Not named, they are the model's own queries and values
    (`q_proj` and `v_proj`, as in the paper), or its fused attention layer."""

    r: int = Field(8, ge=1)
    alpha: float = Field(16, gt=0)
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: list[str] | str | None = None


class Clone(Settings):
    """Stage 1. `batch_size` counts questions of one optimiser step; a step is cut into micro-batches of at
    most `token_budget` tokens. `save_every` counts steps; 0 saves at the end of each epoch. `compile` fuses
    each layer's small operations with torch.compile: a minute of waiting and a C++ compiler for faster steps.
    Every `validate_every` steps (0: never) held-out questions are answered; the best checkpoint becomes the
    adapter, and after `patience` validations without a better one (0: never) training stops."""

    epochs: float = Field(5, gt=0)
    max_steps: int = Field(-1, ge=-1, description="stop after this many steps; -1 goes by epochs")
    batch_size: int = Field(1024, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    scheduler: Scheduler = "linear"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: int = Field(512, ge=8)
    token_budget: int = Field(4096, ge=64)
    save_every: int = Field(0, ge=0)
    validate_every: int = Field(0, ge=0)
    patience: int = Field(0, ge=0)
    compile: bool = False
    gradient_checkpointing: bool = False
    quantize: Literal["8bit", "4bit"] | None = None
    report_to: list[str] = []
    lora: Lora = Lora()

    @field_validator("max_steps")
    @classmethod
    def _some_steps(cls, value: int) -> int:
        if value == 0:
            raise ValueError("0 steps train nothing; -1 goes by epochs")
        return value

    @model_validator(mode="after")
    def _patience_for_something(self) -> Self:
        if self.patience and not self.validate_every:
            raise ValueError("'patience' counts validations: give 'validate_every' too")
        return self


class Rlef(Clone):
    """Stage 2: `L = alpha · L_rank + L_sft`, on top of the stage-1 adapter. `objective` says what L_rank is;
    `margin` is of `rank` and `weighted` alone, `beta` of `dpo` alone. `length_penalty` is 0 for `dpo`, which is
    defined on sums of log-probabilities, unless it is given."""

    epochs: float = Field(2, gt=0)
    batch_size: int = Field(256, ge=1)
    learning_rate: float = Field(2e-5, gt=0)
    scheduler: Scheduler = "cosine"
    save_every: int = Field(10, ge=0)
    objective: RankingObjective = "rank"
    alpha: float = Field(1.0, ge=0)
    margin: float = Field(0.0, ge=0)
    beta: float = Field(0.1, gt=0)
    length_penalty: float = 1.0

    @model_validator(mode="before")
    @classmethod
    def _sums_for_dpo(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("objective") == "dpo":
            return {"length_penalty": 0.0, **value}
        return value


def override(value: dict[str, Any], text: str) -> None:
    """Put one `key=value` into nested settings; dots in the key go down, the value is YAML.

    Raises InputError for a text of another form."""
    path, equals, given = text.partition("=")
    if not equals:
        raise InputError(f"'{text}': an override is key=value, for instance epochs=2")
    *parents, last = path.split(".")
    for parent in parents:
        value = value.setdefault(parent, {})
        if not isinstance(value, dict):
            raise InputError(f"'{text}': '{parent}' holds no keys")
    try:
        value[last] = yaml.safe_load(given)
    except yaml.YAMLError:
        raise InputError(f"'{text}': the value is not YAML") from None


def parse(kind: type[SettingsT], value: dict[str, Any], where: str) -> SettingsT:
    """`value` as settings of `kind`. Raises InputError, beginning with `where`, for the first key that does not
    fit, naming the nearest known key where one is unknown."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise InputError(f"{where}: {_complaint(kind, error)}") from None


def read_settings(kind: type[SettingsT], overrides: Sequence[str]) -> SettingsT:
    """The defaults of `kind` with `key=value` overrides. Raises InputError for one that does not fit."""
    value: dict[str, Any] = {}
    for text in overrides:
        override(value, text)
    return parse(kind, value, "--set")


def _complaint(kind: type[BaseModel], error: ValidationError) -> str:
    errors = error.errors()  # of a misspelt required key two complaints: the unknown one says more
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        message = first["msg"].removeprefix("Value error, ")
        return f"key '{path}': {message}" if path else message
    known = sorted(_keys(kind, first["loc"]))
    near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there is {', '.join(known)}"
    return f"unknown key '{path}'; {hint}"


def _keys(kind: type[BaseModel], path: Sequence[str | int]) -> set[str]:
    """The keys that may stand where `path` ends."""
    for part in path[:-1]:
        if isinstance(part, str):
            inner = kind.model_fields[part].annotation
            choices = [inner, *getattr(inner, "__args__", ())]
            kind = next(each for each in choices if isinstance(each, type) and issubclass(each, BaseModel))
    return {field.alias or name for name, field in kind.model_fields.items()}
