"""Settings of both training stages, for recipes, the command line and Python. Defaults are the paper's.

Names are those of transformers' `TrainingArguments` and PEFT's `LoraConfig` if the meaning is the same.
`batch_size` has no counterpart there: it counts the questions of one optimiser step over all processes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from trice.settings import FREE, Settings

Scheduler = Literal["linear", "cosine", "polynomial", "inverse_sqrt", "constant", "constant_with_warmup"]
RankingObjective = Literal["rank", "weighted", "dpo", "listwise", "grpo", "reinforce"]
POLICY_GRADIENTS: frozenset[str] = frozenset({"grpo", "reinforce"})


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
    the checkpoint with the best accuracy, in rounds with the highest mean reward, becomes the adapter; 0: no
    validation, and the last step becomes the adapter"""
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
    """Training of stage 2: `L = alpha · L_rank + sft · L_sft`, on top of the stage-1 adapter."""

    num_train_epochs: float = Field(2, gt=0)
    batch_size: int = Field(256, ge=1)
    learning_rate: float = Field(2e-5, gt=0)
    lr_scheduler_type: Scheduler = "cosine"
    save_steps: Annotated[int, FREE] = Field(10, ge=0)
    objective: RankingObjective = "rank"
    """L_rank: `rank` (the paper's), `weighted` (each pair weighted by its difference of rewards), `dpo` (all pairs
    of unequal rewards, relative to the policy before stage 2), `listwise` (Plackett-Luce), or a policy gradient with
    the mean reward of a question's candidates as the baseline: `grpo` (divided by their standard deviation) or
    `reinforce` (not divided)"""
    alpha: float = Field(1.0, ge=0)
    """the weight of the ranking loss: alpha · L_rank + sft · L_sft"""
    sft: float = Field(1.0, ge=0)
    """the weight of L_sft, the stage-1 loss on each question's best response; with 0 the objective trains alone"""
    utility: float = Field(0.0, ge=0)
    """the weight of the expected utility of the decision to call, P(call)·U_call + (1 − P(call))·U_answer, which is
    maximised; for the questions of `rounds` for which both decisions were sampled (`arms`), also those without a right
    response, whose calls only cost"""
    margin: float = Field(0.0, ge=0)
    """for `rank` and `weighted`: by how much the better response must score higher before its pair costs nothing"""
    beta: float = Field(0.1, gt=0)
    """for `dpo`: the inverse temperature; with a lower one the policy moves further from the old one"""
    baseline_offset: float = Field(0.0, ge=0)
    """for `reinforce`: by how much the baseline is below the mean reward, which adds imitation of all responses to the
    questions that have right and wrong ones; where most are wrong it learns faster, and where most are right slower"""
    length_penalty: float = Field(1.0, ge=0, allow_inf_nan=False)
    """a response's log-likelihood is divided by its number of tokens to this power; the default for `dpo` is 0,
    because DPO is defined on sums"""

    @model_validator(mode="before")
    @classmethod
    def _sums_for_dpo(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("objective") == "dpo":
            return {"length_penalty": 0.0, **value}
        return value

    @model_validator(mode="after")
    def _fits_the_objective(self) -> Self:
        if not (self.alpha or self.sft or self.utility):
            raise ValueError(
                "'alpha', 'sft' and 'utility' are all 0, so there is nothing to train; choose one above 0"
            )
        if self.margin and self.objective not in ("rank", "weighted"):
            raise ValueError(f"'margin' does not apply to the objective '{self.objective}'; leave it out")
        if self.baseline_offset and self.objective != "reinforce":
            raise ValueError(
                f"'baseline_offset' does not apply to the objective '{self.objective}'; leave it out, or use reinforce"
            )
        if self.beta != type(self).model_fields["beta"].default and self.objective != "dpo":
            raise ValueError(
                f"'beta' does not apply to the objective '{self.objective}'; leave it out, or use dpo"
            )
        return self


class Rounds(Settings):
    """How the policy's own responses are sampled in each round of stage 2."""

    rounds: int = Field(0, ge=0)
    """how often stage 2 samples responses from the latest policy, and trains the policy of stage 1 on what is solved so
    far; 0: it trains once, on the candidates of `collect`, as in the paper. With rounds, the defaults of training are
    one epoch, `batch_size` 16, `learning_rate` 2e-4, falling linearly, and `alpha` 0; the objectives `grpo` and
    `reinforce` train alone, with `alpha` 1, `sft` and `replay` 0 and a `baseline_offset` of 0.3 for `reinforce`, and
    each round starts from the policy of the round before"""
    samples: int = Field(4, ge=1)
    """responses to each question in a round"""
    max_samples: int = Field(32, ge=1)
    """the largest number of responses in a round to a question without a right one; each pass of sampling doubles their
    number"""
    budget: int | None = Field(None, ge=1)
    """responses in a round to all questions together; without it, `max_samples` alone bounds them"""
    arms: int = Field(0, ge=0)
    """further responses with tool choice `none`, and as many with `required`, so that the value of a call is known
    for every question; for tasks that can be answered both ways"""
    temperature: float = Field(1.0, gt=0)
    """the temperature of the samples"""
    top_k: int = Field(50, ge=0)
    """the samples are drawn from the k likeliest tokens; 0 is the whole vocabulary, with which alone a policy gradient
    is exact"""
    cost: float = Field(0.1, ge=0)
    """the cost of a call: a response's reward is 1 if it is correct, minus `cost` for each call; a malformed one gets
    minus `cost`"""
    replay: float = Field(1.0, ge=0, le=1)
    """the share of the examples of stage 1 that each round trains on again"""

    @model_validator(mode="after")
    def _first_samples_are_affordable(self) -> Self:
        if self.max_samples < self.samples:
            raise ValueError(f"max_samples={self.max_samples} is less than samples={self.samples}; raise it")
        if self.budget is not None and self.budget < self.samples:
            raise ValueError(f"budget={self.budget} is less than samples={self.samples}; raise it")
        return self


ROUND_DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 1,
    "batch_size": 16,
    "learning_rate": 2e-4,
    "lr_scheduler_type": "linear",
}


class OnPolicy(Rlef, Rounds):
    """Stage 2 in a recipe: its training, and with `rounds` the sampling of the policy's own responses.

    With rounds the training has other defaults (`ROUND_DEFAULTS`), for hundreds of questions and not for the paper's
    thousands, and without ranking."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_rounds(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not value.get("rounds"):
            return value
        if value.get("objective") in POLICY_GRADIENTS:
            offset = {"baseline_offset": 0.3} if value["objective"] == "reinforce" else {}
            return ROUND_DEFAULTS | {"sft": 0.0, "replay": 0.0} | offset | value
        return ROUND_DEFAULTS | {"alpha": 0.0} | value

    @model_validator(mode="after")
    def _fits_the_rounds(self) -> Self:
        for name, field in Rounds.model_fields.items():
            if not self.rounds and getattr(self, name) != field.default:
                raise ValueError(f"'{name}' applies to rounds only; set 'rounds', or leave '{name}' out")
        if self.utility and not self.rounds:
            raise ValueError("'utility' needs the worth of both decisions, which rounds sample; set 'rounds'")
        if self.rounds and self.policy_gradient and (self.sft or self.replay):
            raise ValueError(
                f"objective '{self.objective}' trains alone in rounds, on right and wrong responses; leave out sft and "
                "replay"
            )
        if self.rounds and self.policy_gradient and self.temperature != 1:
            raise ValueError(
                f"'temperature' is {self.temperature}, and the objective '{self.objective}' learns from samples of the "
                "policy itself, whose temperature is 1; leave it out"
            )
        if (
            self.rounds
            and not self.policy_gradient
            and (self.alpha or self.margin or self.objective != "rank")
        ):
            raise ValueError(
                "rounds do not rank: they train on one right response to each question or, with the objective grpo or "
                "reinforce, on all responses; leave out alpha, margin and other objectives"
            )
        return self

    @property
    def policy_gradient(self) -> bool:
        """Whether it trains on all responses of a question instead of its target."""
        return self.objective in POLICY_GRADIENTS

    @property
    def training(self) -> Rlef:
        """The settings of the training alone."""
        return Rlef.model_validate({name: getattr(self, name) for name in Rlef.model_fields})
