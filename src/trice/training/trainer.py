"""The trainer of both stages: transformers' `Trainer` with TRICE's objective in its step.

Checkpoints, resuming, schedulers, accumulation and trackers are the base class's. A step cuts its batch
into micro-batches by token budget, and divides by the whole batch's counts, so the loss does not depend on
the cut. `L = α·L_rank + L_sft`: L_sft is the mean over all response tokens of the best-rewarded responses in
the batch (the stage-1 loss), L_rank the mean over the batch's questions of the sum over their pairs; padding
never counts. With one response a question, L_rank has no pairs and the objective is stage 1's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from trice.errors import TriceError
from trice.journal import write_rows
from trice.models.masks import layer_masks
from trice.progress import Progress
from trice.training.losses import rank_loss, sequence_scores, token_log_probs
from trice.training.packing import Example, Packed, Tokens, micro_batches, pack
from trice.training.validation import MEASURED, figures

Validate = Callable[[int, int], list[int]]
"""From a process's number and how many there are to its share of what `Validation.counts` counts."""


@dataclass(frozen=True)
class Objective:
    """What a step minimises. `alpha` weighs L_rank; `token_budget` bounds a micro-batch's tokens."""

    alpha: float = 1.0
    margin: float = 0.0
    length_penalty: float = 1.0
    token_budget: int = 4096


@dataclass
class Parts:
    """Sums over some questions, from which every logged figure is a quotient."""

    sft: torch.Tensor
    tokens: int
    rank: torch.Tensor
    questions: int
    pairs: int
    ordered: int


def log_probs(model: Any, packed: Packed) -> torch.Tensor:
    """log p of every response token of a packed micro-batch, [N] in float32; only these meet the output head.

    `model` is a transformers causal LM, LoRA layers injected or not.
    """
    mask = layer_masks(model.config, packed.allowed_RTT, packed.positions_RT, packed.positions_RT)
    body = getattr(model, model.base_model_prefix)
    hidden_RTD = body(
        input_ids=packed.tokens_RT, position_ids=packed.positions_RT, attention_mask=mask, use_cache=False
    )[0]
    # Not by indexing: several responses share a prompt's last position, and the backward pass of indexing adds
    # their gradients in whatever order threads come, which would give other bytes in every run.
    hidden_ND = hidden_RTD.flatten(0, 1).index_select(0, packed.source_N)
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return token_log_probs(hidden_ND, model.get_output_embeddings().weight, packed.target_N, cap)


def check_head(model: Any, tokens: Sequence[int]) -> None:
    """Raise TriceError where body and output head alone do not give this model's log-probabilities."""
    response = list(tokens[1:4])
    example = Example(list(tokens[:1]), [Tokens(response, [True] * len(response))], [0.0])
    packed = pack([example], next(model.parameters()).device)
    with torch.no_grad():
        ours = log_probs(model, packed)
        logits = model(input_ids=packed.tokens_RT, use_cache=False).logits.float().flatten(0, 1)
        theirs = logits.log_softmax(-1)[packed.source_N, packed.target_N]
    if not torch.allclose(ours, theirs, atol=1e-2, rtol=1e-2):
        raise TriceError(
            f"{type(model).__name__} changes its logits in a way that this trainer does not know "
            f"(log-probabilities {ours.tolist()} against the model's own {theirs.tolist()})"
        )


def measure(model: Any, packed: Packed, objective: Objective) -> Parts:
    """The parts of the objective on one micro-batch, with gradients."""
    logps_N = log_probs(model, packed)
    responses = int(packed.slot_QK.max()) + 1
    scores_S = sequence_scores(logps_N, packed.response_N, responses, objective.length_penalty)
    real_QK = packed.slot_QK >= 0
    rank_Q, pairs_Q, ordered_Q = rank_loss(
        scores_S[packed.slot_QK.clamp(min=0)], packed.rewards_QK, real_QK, objective.margin
    )
    # argmax takes the first of equals: the gold response, which candidates put first.
    best_Q = packed.rewards_QK.masked_fill(~real_QK, -torch.inf).argmax(1)
    best_S = packed.slot_QK.gather(1, best_Q.unsqueeze(1)).squeeze(1)
    in_best_N = torch.isin(packed.response_N, best_S)
    return Parts(
        sft=-logps_N[in_best_N].sum(),
        tokens=int(in_best_N.sum()),
        rank=rank_Q.sum(),
        questions=len(best_S),
        pairs=int(pairs_Q.sum()),
        ordered=int(ordered_Q.sum()),
    )


def _sft_tokens(examples: Sequence[Example]) -> int:
    """How many tokens the SFT term of a batch averages over."""
    best = [example.responses[example.rewards.index(max(example.rewards))] for example in examples]
    return max(1, sum(sum(response.loss) for response in best))


def mixed(model: Any) -> Any:
    """Over a half-precision base, LoRA's float32 weights are multiplied in half precision too: elsewhere they
    would drag every layer's input through float32."""
    half = model.dtype in (torch.bfloat16, torch.float16)
    return torch.autocast(model.device.type, model.dtype) if half else nullcontext()


class TriceTrainer(Trainer):  # type: ignore[misc]
    """`Trainer` over lists of `Example`; it validates by `validate`."""

    control: Any

    def __init__(self, objective: Objective, validate: Validate | None = None, **kwargs: Any) -> None:
        # `Trainer` validates on nothing without a data set; `evaluate` has its own.
        super().__init__(data_collator=list, eval_dataset=[] if validate else None, **kwargs)
        self.objective, self.validate = objective, validate
        self._figures: dict[str, float] = {}

    def training_step(
        self, model: Any, inputs: list[Example], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Forward and backward over one batch of questions; returns the detached loss."""
        model.train()
        tokens, questions = _sft_tokens(inputs), len(inputs)
        total = torch.zeros((), device=self.args.device)
        parts = []
        causal = self.accelerator.unwrap_model(model)
        causal = causal.get_base_model() if hasattr(causal, "get_base_model") else causal
        for part in micro_batches(inputs, self.objective.token_budget):
            with self.compute_loss_context_manager(), mixed(causal):
                measured = measure(causal, pack(part, self.args.device), self.objective)
                loss = measured.sft / tokens + self.objective.alpha * measured.rank / questions
            self.accelerator.backward(loss / self.args.gradient_accumulation_steps)
            total += loss.detach()
            parts.append(measured)
        self._note(parts)
        loss_per_step: torch.Tensor = total / self.args.gradient_accumulation_steps
        return loss_per_step

    def _note(self, parts: list[Parts]) -> None:
        tokens, questions = sum(part.tokens for part in parts), sum(part.questions for part in parts)
        figures = {"sft_loss": sum(float(part.sft.detach()) for part in parts) / max(1, tokens)}
        pairs = sum(part.pairs for part in parts)
        if pairs:
            figures["rank_loss"] = sum(float(part.rank.detach()) for part in parts) / questions
            figures["ordered"] = sum(part.ordered for part in parts) / pairs
        self._figures = figures

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Answer the held-out questions, each process its share of them, and have the policy saved as it stands."""
        assert self.validate
        causal = self.accelerator.unwrap_model(self.model).get_base_model()
        with mixed(causal):
            counted = self.validate(self.args.process_index, self.args.world_size)
        counted = self.accelerator.reduce(torch.tensor(counted, device=self.args.device), "sum").tolist()
        metrics = figures(counted)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.control.should_save = True  # the best one has to be there in the end
        return metrics

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add our own figures of the step to the trainer's, which logs every step."""
        super().log(logs | self._figures if "loss" in logs else logs, *args, **kwargs)


class Log(TrainerCallback):  # type: ignore[misc]
    """Counts steps on `progress`, and keeps the trainer's history as `log.jsonl`."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self.path, self.progress = path, progress
        self.validated = ""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        shown = [name for name in ("loss", "sft_loss", "rank_loss", "ordered") if name in logs]
        if "eval_accuracy" in logs:
            figures = (f"{name} {logs[f'eval_{name}']:.1%}" for name in ("accuracy", "tool_use"))
            self.validated = f"  (step {state.global_step}: {', '.join(figures)})"
            self.progress.advance(0, self.validated.strip())
        if shown:  # not the closing entry, of run times
            self.progress.advance(1, "  ".join(f"{name} {logs[name]:.4g}" for name in shown) + self.validated)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        write_log(self.path, state.log_history)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        write_log(self.path, state.log_history)


def write_log(path: Path, history: list[dict[str, float]]) -> None:
    """The trainer's history of steps and validations, one a line."""
    names = ("step", "loss", "sft_loss", "rank_loss", "ordered", "learning_rate", "grad_norm", *MEASURED)
    entries = [
        {name.removeprefix("eval_"): entry[name] for name in names if name in entry} for entry in history
    ]
    write_rows(path, [entry for entry in entries if "loss" in entry or "accuracy" in entry])
