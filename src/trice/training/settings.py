"""Settings of both training stages, for recipes, the command line and Python. Defaults are the paper's.

Names are those of transformers' `TrainingArguments` and PEFT's `LoraConfig` if the meaning is the same.
`batch_size` has no counterpart there: it counts the questions of one optimiser step over all processes. This module
does not import torch, so a recipe is checked before torch is loaded.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from trice.errors import InputError

SettingsT = TypeVar("SettingsT", bound="Settings")
Scheduler = Literal["linear", "cosine", "polynomial", "inverse_sqrt", "constant", "constant_with_warmup"]
RankingObjective = Literal["rank", "weighted", "dpo", "listwise"]


FREE = "free"  # marks a setting of speed, memory, placement or logging, which does not change results


class Settings(BaseModel):
    """A group of settings. It is immutable, and an unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def identity(self) -> dict[str, Any]:
        """The settings that results depend on, as JSON values. Those marked `FREE` are left out, here and in nested
        groups, so they may change between the runs of an unfinished step."""
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
    """The LoRA layers. The paper adapts queries and values (`q_proj`, `v_proj`)."""

    r: int = Field(8, ge=1)
    """the rank"""
    lora_alpha: float = Field(16, gt=0)
    """the update is scaled by lora_alpha / r"""
    lora_dropout: float = Field(0.05, ge=0, lt=1)
    """the dropout of the adapter's input"""
    target_modules: list[str] | str | None = None
    """module names, or `all-linear`; without it, the attention layers that the model's family usually adapts"""


class Clone(Settings):
    """Training of stage 1."""

    num_train_epochs: float = Field(5, gt=0)
    """passes over the data"""
    max_steps: int = Field(-1, ge=-1)
    """the number of optimiser steps; -1: `num_train_epochs` decides"""
    batch_size: int = Field(1024, ge=1)
    """questions of one optimiser step, over all processes"""
    learning_rate: float = Field(1e-4, gt=0)
    """the highest learning rate"""
    lr_scheduler_type: Scheduler = "linear"
    """how the learning rate falls"""
    warmup_steps: int = Field(0, ge=0)
    """steps in which the learning rate rises from 0"""
    weight_decay: float = Field(0.0, ge=0)
    """the weight decay of AdamW"""
    max_grad_norm: float = Field(1.0, gt=0)
    """gradients are clipped to this norm"""
    max_length: int = Field(512, ge=8)
    """tokens of prompt and response; longer questions are left out and counted, never truncated"""
    token_budget: Annotated[int, FREE] = Field(4096, ge=64)
    """tokens of a micro-batch, into which a step is divided; bounds the memory and does not change the loss"""
    save_steps: Annotated[int, FREE] = Field(0, ge=0)
    """steps between checkpoints; 0: at the end of each epoch"""
    eval_steps: int = Field(0, ge=0)
    """steps between validations: held-out questions (`validation`) are answered greedily, calls are executed, and
    the checkpoint with the best accuracy becomes the adapter; 0: no validation, and the last step becomes the
    adapter"""
    early_stopping_patience: int = Field(0, ge=0)
    """training stops after this number of validations without a better one; 0: it never stops early"""
    torch_compile: Annotated[bool, FREE] = False
    """compile the layers with torch.compile: faster steps, but it needs a C++ compiler, and the first step takes a
    minute"""
    gradient_checkpointing: Annotated[bool, FREE] = False
    """compute each layer again in the backward pass: the same gradients with less memory, but slower"""
    quantize: Literal["8bit", "4bit"] | None = None
    """keep the base's linear layers in `8bit` or `4bit` while training"""
    report_to: Annotated[list[str], FREE] = []
    """trackers that transformers knows, such as `tensorboard`"""
    lora: Lora = Lora()

    @field_validator("max_steps")
    @classmethod
    def _some_steps(cls, value: int) -> int:
        if value == 0:
            raise ValueError("0 steps train nothing; choose 1 or more, or -1 for num_train_epochs")
        return value

    @model_validator(mode="after")
    def _patience_needs_validation(self) -> Self:
        if self.early_stopping_patience and not self.eval_steps:
            raise ValueError("'early_stopping_patience' counts validations; set 'eval_steps' too")
        return self


class Rlef(Clone):
    """Training of stage 2: `L = alpha · L_rank + L_sft`, on top of the stage-1 adapter."""

    num_train_epochs: float = Field(2, gt=0)
    batch_size: int = Field(256, ge=1)
    learning_rate: float = Field(2e-5, gt=0)
    lr_scheduler_type: Scheduler = "cosine"
    save_steps: Annotated[int, FREE] = Field(10, ge=0)
    objective: RankingObjective = "rank"
    """L_rank: `rank` (the paper's), `weighted` (each pair weighted by its difference of rewards), `dpo` (all pairs
    of unequal rewards, relative to the policy before stage 2), or `listwise` (Plackett-Luce)"""
    alpha: float = Field(1.0, ge=0)
    """the weight of the ranking loss: alpha · L_rank + L_sft"""
    margin: float = Field(0.0, ge=0)
    """for `rank` and `weighted`: by how much the better response must score higher before its pair costs nothing"""
    beta: float = Field(0.1, gt=0)
    """for `dpo`: the inverse temperature; with a lower one the policy moves further from the old one"""
    length_penalty: float = 1.0
    """a response's log-likelihood is divided by its number of tokens to this power; the default for `dpo` is 0,
    because DPO is defined on sums"""

    @model_validator(mode="before")
    @classmethod
    def _sums_for_dpo(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("objective") == "dpo":
            return {"length_penalty": 0.0, **value}
        return value


def override(value: dict[str, Any], text: str) -> None:
    """Set one `key=value` in nested settings. Dots in the key separate levels, and the value is YAML.

    Raises InputError for a text of another form."""
    path, equals, given = text.partition("=")
    if not equals:
        raise InputError(f"'{text}' is not an override; write key=value, for instance num_train_epochs=2")
    *parents, last = path.split(".")
    inner: Any = value
    for parent in parents:
        inner = _list_entry(inner, parent, text) if isinstance(inner, list) else inner.setdefault(parent, {})
        if not isinstance(inner, dict | list):
            raise InputError(f"'{text}': '{parent}' has a value and no keys")
    if isinstance(inner, list):
        raise InputError(f"'{text}': '{parents[-1]}' is a list; name an entry's key, such as {path}.train=5")
    try:
        inner[last] = yaml.safe_load(given)
    except yaml.YAMLError:
        raise InputError(f"'{text}': the value is not valid YAML") from None


def _list_entry(entries: list[Any], name: str, text: str) -> Any:
    """An entry of a list by its number from 0, or by its name (`data.starter`, `collect.sampled`)."""
    if name.isdigit() and int(name) < len(entries):
        return entries[int(name)]
    for entry in entries:
        if isinstance(entry, dict) and name in (entry.get("dataset"), entry.get("origin")):
            return entry
    raise InputError(f"'{text}': there is no entry '{name}'; give its number from 0, or its name")


def parse(kind: type[SettingsT], value: dict[str, Any], where: str) -> SettingsT:
    """Settings of `kind` from nested values. Raises InputError, beginning with `where`, for the first key that is
    not valid, with the nearest known key."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise InputError(f"{where}: {_complaint(kind, error)}") from None


def read_settings(kind: type[SettingsT], overrides: Sequence[str]) -> SettingsT:
    """The defaults of `kind` with `key=value` overrides. Raises InputError for one that is not valid."""
    value: dict[str, Any] = {}
    for text in overrides:
        override(value, text)
    return parse(kind, value, "settings")


def _complaint(kind: type[BaseModel], error: ValidationError) -> str:
    errors = error.errors()  # a misspelt required key gives two errors; the unknown key is more helpful
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        message = first["msg"].removeprefix("Value error, ")
        return f"key '{path}': {message}" if path else message
    known = sorted(_keys(kind, first["loc"]))
    given = str(first["loc"][-1])
    return f"unknown key '{path}'; {nearest_key(given, known)}"


def nearest_key(given: str, known: Sequence[str]) -> str:
    """A hint at the known key or option that is most like `given`, as a whole or in a part: `epcohs` for
    `num_train_epochs`."""
    plain = {_plain(key): key for key in known}
    word = _plain(given)
    near = difflib.get_close_matches(word, plain, n=1) or [key for key in plain if word in key]
    if not near:
        parts = {part: key for key in plain for part in re.split("[_.]", key)}
        near = [parts[part] for part in difflib.get_close_matches(word, parts, n=1)]
    return f"did you mean '{plain[near[0]]}'?" if near else f"choose one of {', '.join(known)}"


def _plain(key: str) -> str:
    """A key as recipes write it; an option has dashes."""
    return key.removeprefix("--").replace("-", "_")


def _keys(kind: type[BaseModel], path: Sequence[str | int]) -> set[str]:
    """The keys that are known where `path` ends."""
    for part in path[:-1]:
        if isinstance(part, str):
            inner = kind.model_fields[part].annotation
            choices = [inner, *getattr(inner, "__args__", ())]
            kind = next(each for each in choices if isinstance(each, type) and issubclass(each, BaseModel))
    return {field.alias or name for name, field in kind.model_fields.items()}
