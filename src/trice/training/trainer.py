"""The trainer of both stages: transformers' `Trainer` with TRICE's objective in its step.

Checkpoints, resuming, schedulers, early stopping and trackers are the base class's. A step cuts its batch into
micro-batches by token budget, shared among the processes, and divides by the whole batch's counts, so the loss
depends neither on the cut nor on the number of processes. `L = α·L_rank + L_sft`: L_sft is the mean over all
response tokens of the best-rewarded responses in the batch (the stage-1 loss), L_rank the mean over the batch's
questions of the ranking objective that the settings name (`trice.training.losses`); padding never counts. With one
response a question, L_rank has no pairs and the objective is stage 1's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.utils.data import BatchSampler, DataLoader
from transformers import Trainer, TrainerCallback

from trice.progress import Progress
from trice.storage.files import write_rows
from trice.training.losses import ranking, sequence_scores
from trice.training.packed_forward import Way, mixed
from trice.training.packing import Example, Packed, micro_batches, pack
from trice.training.settings import Clone, Rlef
from trice.training.validation import MEASURED, figures

Validate = Callable[[int, int], list[int]]
"""From a process's number and how many there are to its share of what `Validation.counts` counts."""


@dataclass
class Parts:
    """Sums over some questions, from which every logged figure is a quotient."""

    sft: torch.Tensor
    tokens: int
    rank: torch.Tensor
    questions: int
    pairs: int
    ordered: int

    def sums(self) -> torch.Tensor:
        """All six, detached, in float64, on the device of the losses. Nothing here waits for a GPU: while it
        computes gradients, the next micro-batch is laid out."""
        values: list[torch.Tensor | int] = [
            self.sft,
            self.tokens,
            self.rank,
            self.questions,
            self.pairs,
            self.ordered,
        ]
        sums = torch.zeros(len(values), dtype=torch.float64, device=self.sft.device)
        for place, value in enumerate(values):
            sums[place] = value.detach() if isinstance(value, torch.Tensor) else value
        return sums


def response_scores(logps_N: torch.Tensor, packed: Packed, objective: Rlef) -> torch.Tensor:
    """p_i of every response, [S]."""
    responses = int(packed.slot_QK.max()) + 1
    return sequence_scores(logps_N, packed.response_N, responses, objective.length_penalty)


def measure(logps_N: torch.Tensor, packed: Packed, objective: Rlef) -> Parts:
    """The parts of the objective on one micro-batch, given its log-probabilities, with gradients."""
    scores_S = response_scores(logps_N, packed, objective)
    real_QK = packed.slot_QK >= 0
    rank_Q, pairs_Q, ordered_Q = ranking(
        objective.objective,
        scores_S[packed.slot_QK.clamp(min=0)],
        packed.rewards_QK,
        real_QK,
        packed.reference_QK,
        margin=objective.margin,
        beta=objective.beta,
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


def _figures(
    sft: float, tokens: float, rank: float, questions: float, pairs: float, ordered: float
) -> dict[str, float]:
    """What is logged of a step."""
    figures = {"sft_loss": sft / max(1, tokens)}
    if pairs:
        figures |= {"rank_loss": rank / questions, "ordered": ordered / pairs}
    return figures


def _sft_tokens(examples: Sequence[Example]) -> int:
    """How many tokens the SFT term of a batch averages over."""
    best = [example.responses[example.rewards.index(max(example.rewards))] for example in examples]
    return max(1, sum(sum(response.loss) for response in best))


class Batches(BatchSampler):
    """The questions of every optimiser step, the same on all processes: shuffled anew in each epoch."""

    def __init__(self, questions: int, size: int, seed: int) -> None:
        self.questions, self.size, self.seed = questions, size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.questions // self.size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.questions, generator=generator).tolist()
        return iter([order[start : start + self.size] for start in range(0, self.questions, self.size)])


class Loader(DataLoader[Example]):
    """Batches of examples; the trainer tells it the epoch."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


class TriceTrainer(Trainer):  # type: ignore[misc]
    """`Trainer` over lists of `Example`, for a model that went through `trice.training.packed_forward.prepare`.

    It validates by `validate`."""

    control: Any

    def __init__(self, settings: Clone, way: Way, validate: Validate | None = None, **kwargs: Any) -> None:
        # `Trainer` validates on nothing without a data set; `evaluate` has its own.
        super().__init__(data_collator=list, eval_dataset=[] if validate else None, **kwargs)
        self.settings, self.way, self.validate = settings, way, validate
        self.objective = settings if isinstance(settings, Rlef) else Rlef()  # stage 1 has no pairs to rank
        self._figures: dict[str, float] = {}

    def get_train_dataloader(self) -> Loader:
        """All processes read the whole batch and take their share of its micro-batches: see `training_step`."""
        sampler = Batches(len(self.train_dataset), self.settings.batch_size, self.args.data_seed)
        return Loader(self.train_dataset, batch_sampler=sampler, collate_fn=list)

    def training_step(
        self, model: Any, inputs: list[Example], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Forward and backward over one batch of questions; returns the detached loss.

        The batch is cut into micro-batches, as many for one process as for another, and a question is never
        split. A process without one of its own runs the batch's first question for nothing, since the others
        wait for it where gradients or weights are gathered.
        """
        model.train()
        tokens, questions = _sft_tokens(inputs), len(inputs)
        here, processes = self.accelerator.process_index, self.accelerator.num_processes
        mine = micro_batches(inputs, self.settings.token_budget, processes)[here::processes]
        sums = torch.zeros(6, dtype=torch.float64, device=self.args.device)
        for number, part in enumerate(mine):
            last = number == len(mine) - 1
            packed = pack(part or inputs[:1], self.way.layout, self.args.device)
            self.accelerator.gradient_state._set_sync_gradients(last)
            with nullcontext() if last else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager(), mixed(self.accelerator.unwrap_model(model)):
                    measured = measure(model(packed=packed), packed, self.objective)
                cost = measured.sft / tokens + self.objective.alpha * measured.rank / questions
                # Gradients are averaged over processes; empty parts weigh nothing.
                self.accelerator.backward(cost * (processes if part else 0))
            if part:
                sums += measured.sums()
        sums = self.accelerator.reduce(sums)
        self._figures = _figures(*sums.tolist())
        loss: torch.Tensor = sums[0] / tokens + self.objective.alpha * sums[2] / questions
        return loss.float()

    @torch.no_grad()
    def add_reference(self) -> None:
        """Give every example its responses' scores under the policy as it is now, which DPO compares with."""
        causal = self.accelerator.unwrap_model(self.model)
        here, processes = self.accelerator.process_index, self.accelerator.num_processes
        causal.eval()
        found = []
        numbers = {id(example): number for number, example in enumerate(self.train_dataset)}
        parts = micro_batches(self.train_dataset, self.settings.token_budget, processes)
        for part in parts[here::processes]:
            if part:
                packed = pack(part, self.way.layout, self.args.device)
                with mixed(causal):
                    scores_S = response_scores(causal(packed=packed), packed, self.objective)
                split = torch.split(scores_S.cpu(), [len(example.responses) for example in part])
                found += [(numbers[id(example)], s.tolist()) for example, s in zip(part, split, strict=True)]
        for number, scores in gather_object(found):
            self.train_dataset[number] = replace(self.train_dataset[number], reference=scores)

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
        if state.is_world_process_zero:
            write_log(self.path, state.log_history)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            write_log(self.path, state.log_history)


def write_log(path: Path, history: list[dict[str, float]]) -> None:
    """The trainer's history of steps and validations, one a line."""
    names = ("step", "loss", "sft_loss", "rank_loss", "ordered", "learning_rate", "grad_norm", *MEASURED)
    entries = [
        {name.removeprefix("eval_"): entry[name] for name in names if name in entry} for entry in history
    ]
    write_rows(path, [entry for entry in entries if "loss" in entry or "accuracy" in entry])
