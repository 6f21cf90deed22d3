"""Hyper-parameters of both stages, as recipes and the command line give them. Defaults are the paper's.

Imports nothing heavy, so that a recipe can be checked before torch is loaded.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Device = str
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class Settings(BaseModel):
    """A group of settings: immutable, and an unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Lora(Settings):
    """LoRA on `targets`: module names, or `all-linear`."""

    r: int = Field(8, ge=1)
    alpha: float = Field(16, gt=0)
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: list[str] | str = ["q_proj", "v_proj"]


class Clone(Settings):
    """Stage 1. `batch_size` counts questions of one optimiser step; a step is cut into micro-batches of at
    most `token_budget` tokens. `save_every` and `validate_every` count steps; 0 saves at the end of each
    epoch, and never validates."""

    epochs: float = Field(5, gt=0)
    max_steps: int = Field(-1, description="stop after this many steps; -1 goes by epochs")
    batch_size: int = Field(1024, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    scheduler: str = "linear"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: int = Field(512, ge=8)
    token_budget: int = Field(4096, ge=64)
    save_every: int = Field(0, ge=0)
    log_every: int = Field(1, ge=1)
    report_to: list[str] = []
    lora: Lora = Lora()


class Rlef(Clone):
    """Stage 2: `L = alpha · L_rank + L_sft`, on top of the stage-1 adapter."""

    epochs: float = Field(2, gt=0)
    batch_size: int = Field(256, ge=1)
    learning_rate: float = Field(2e-5, gt=0)
    scheduler: str = "cosine"
    save_every: int = Field(10, ge=0)
    alpha: float = Field(1.0, ge=0)
    margin: float = Field(0.0, ge=0)
    length_penalty: float = 1.0
