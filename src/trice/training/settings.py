"""Hyper-parameters of both stages, as recipes and the command line give them. Defaults are the paper's.

Imports nothing heavy, so that a recipe can be checked before torch is loaded.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from trice.errors import InputError

SettingsT = TypeVar("SettingsT", bound="Settings")
Scheduler = Literal["linear", "cosine", "polynomial", "inverse_sqrt", "constant", "constant_with_warmup"]
RankingObjective = Literal["rank", "weighted", "dpo", "listwise"]


FREE = "free"  # marks a setting of speed, memory, placement or logging, which changes no result


class Settings(BaseModel):
    """A group of settings: immutable, and an unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def identity(self) -> dict[str, Any]:
        """The settings that results depend on, as JSON values: what may not change while work on them is under way.
        Those marked `FREE` may, here and in all groups below."""
        found = self.model_dump(mode="json", by_alias=True)
        for name, field in type(self).model_fields.items():
            key, value = field.alias or name, getattr(self, name)
            if FREE in field.metadata:
                del found[key]
            elif isinstance(value, Settings):
                found[key] = value.identity()
            elif isinstance(value, list):
                found[key] = [each.identity() if isinstance(each, Settings) else each for each in value]
        return found


class Lora(Settings):
    """The LoRA layers. The paper's are the queries and values (`q_proj`, `v_proj`)."""

    r: int = Field(8, ge=1)
    """rank"""
    alpha: float = Field(16, gt=0)
    """scaling: the update counts alpha / r"""
    dropout: float = Field(0.05, ge=0, lt=1)
    """of the adapter's input"""
    targets: list[str] | str | None = None
    """module names, or `all-linear`; none: chosen by the model's family"""


class Clone(Settings):
    """Training of stage 1. A step is cut into micro-batches of at most `token_budget` tokens."""

    epochs: float = Field(5, gt=0)
    """times over the data"""
    max_steps: int = Field(-1, ge=-1)
    """stop after so many steps; -1 goes by epochs"""
    batch_size: int = Field(1024, ge=1)
    """questions of one optimiser step"""
    learning_rate: float = Field(1e-4, gt=0)
    """at its highest"""
    scheduler: Scheduler = "linear"
    """how it falls"""
    warmup_steps: int = Field(0, ge=0)
    """steps in which it rises from 0"""
    weight_decay: float = Field(0.0, ge=0)
    """of AdamW"""
    max_grad_norm: float = Field(1.0, gt=0)
    """gradients are clipped to this norm"""
    max_length: int = Field(512, ge=8)
    """tokens of prompt and response; longer questions are left out and counted, never cut"""
    token_budget: Annotated[int, FREE] = Field(4096, ge=64)
    """tokens of a micro-batch: bounds the memory, does not change the loss"""
    save_every: Annotated[int, FREE] = Field(0, ge=0)
    """steps between checkpoints; 0: at the end of each epoch"""
    validate_every: int = Field(0, ge=0)
    """steps between validations: held-out questions (`validation`) are answered greedily, calls executed, and
    the checkpoint with the best accuracy becomes the adapter; 0: none, the last step does"""
    patience: int = Field(0, ge=0)
    """validations without a better one after which training stops; 0: it never does"""
    compile: Annotated[bool, FREE] = False
    """fuse small operations with torch.compile: faster steps, but it needs a C++ compiler, and its first use
    takes a minute"""
    gradient_checkpointing: Annotated[bool, FREE] = False
    """compute each layer again in the backward pass: the same gradients, less memory, slower"""
    quantize: Literal["8bit", "4bit"] | None = None
    """keep the base's linear layers in `8bit` or `4bit` while training"""
    report_to: Annotated[list[str], FREE] = []
    """trackers transformers knows, such as `tensorboard`"""
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
    """Training of stage 2: `L = alpha · L_rank + L_sft`, on top of the stage-1 adapter."""

    epochs: float = Field(2, gt=0)
    batch_size: int = Field(256, ge=1)
    learning_rate: float = Field(2e-5, gt=0)
    scheduler: Scheduler = "cosine"
    save_every: Annotated[int, FREE] = Field(10, ge=0)
    objective: RankingObjective = "rank"
    """what L_rank is: `rank` (the paper's), `weighted` (each pair by its difference of rewards), `dpo` (on
    all pairs of unequal rewards, against the policy as it was before stage 2), `listwise` (Plackett-Luce)"""
    alpha: float = Field(1.0, ge=0)
    """weight of the ranking loss: alpha · L_rank + L_sft"""
    margin: float = Field(0.0, ge=0)
    """of `rank` and `weighted`: by how much a better response must be likelier before its pair costs
    nothing"""
    beta: float = Field(0.1, gt=0)
    """of `dpo`: how much a shift away from the old policy counts; a lower one lets it shift further"""
    length_penalty: float = 1.0
    """a response's log-likelihood is divided by its tokens to this power; with `dpo` 0 unless given, as DPO
    is defined on sums"""

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
    inner: Any = value
    for parent in parents:
        inner = _list_entry(inner, parent, text) if isinstance(inner, list) else inner.setdefault(parent, {})
        if not isinstance(inner, dict | list):
            raise InputError(f"'{text}': '{parent}' holds no keys")
    if isinstance(inner, list):
        raise InputError(f"'{text}': '{parents[-1]}' is a list; name an entry's key, such as {path}.train=5")
    try:
        inner[last] = yaml.safe_load(given)
    except yaml.YAMLError:
        raise InputError(f"'{text}': the value is not YAML") from None


def _list_entry(entries: list[Any], name: str, text: str) -> Any:
    """An entry of a list by its number from 0, or by its name (`data.starter`, `collect.sampled`)."""
    if name.isdigit() and int(name) < len(entries):
        return entries[int(name)]
    for entry in entries:
        if isinstance(entry, dict) and name in (entry.get("dataset"), entry.get("origin")):
            return entry
    raise InputError(f"'{text}': there is no entry '{name}'; give its number from 0, or its name")


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
    return parse(kind, value, "settings")


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
