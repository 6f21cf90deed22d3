"""The trainer of both stages: transformers' `Trainer` with TRICE's objective as its training step.

Checkpoints, resuming, schedulers, early stopping and trackers are those of `Trainer`. A step divides its batch into
micro-batches by token budget, shares them among the processes, and divides by the counts of the whole batch, so the
loss depends neither on the division nor on the number of processes.

The loss is `L = α·L_rank + sft·L_sft`. L_sft is the mean of −log p over the response tokens of the best-rewarded
responses in the batch, which is the stage-1 loss. L_rank is the mean over the batch's questions of the ranking
objective (`trice.training.losses`). Padding never counts. With one response to each question L_rank has no pairs,
and the objective is that of stage 1. If the examples say what a call and an answer are worth, `utility` times the
expected utility of the decision is subtracted: the sum over these examples, divided by all questions of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object
from torch.utils.data import BatchSampler, DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from trice.progress import Progress
from trice.settings import parse
from trice.storage.files import write_rows
from trice.training.losses import expected_utility, ranking, sequence_scores
from trice.training.packed_forward import PackedForward, half_precision_autocast
from trice.training.packing import Packed, TokenizedExample, micro_batches
from trice.training.settings import Clone, Rlef
from trice.training.tokenization import drop_long, tokenize
from trice.training.validation import METRICS, validation_metrics

Validate = Callable[[int, int], list[float]]
"""From the number of a process and of all processes to its share of the counts of `Validation.counts`."""


class LossSums(NamedTuple):
    """Sums over some questions. Every logged number is a quotient of two of them."""

    sft: Any
    tokens: Any
    rank: Any
    questions: Any
    pairs: Any
    ordered: Any
    utility: Any = 0
    decisions: Any = 0

    def tensor(self) -> torch.Tensor:
        """All sums, detached, in float64, on the device of the losses. This does not wait for a GPU, so the next
        micro-batch is packed while the GPU computes gradients."""
        sums = torch.zeros(len(self), dtype=torch.float64, device=self.sft.device)
        for place, value in enumerate(self):
            sums[place] = value.detach() if isinstance(value, torch.Tensor) else value
        return sums

    def metrics(self) -> dict[str, float]:
        """The logged numbers of sums that are plain numbers."""
        metrics = {"sft_loss": self.sft / max(1, self.tokens)}
        if self.pairs:
            metrics |= {"rank_loss": self.rank / self.questions, "ordered": self.ordered / self.pairs}
        if self.decisions:
            metrics["utility"] = self.utility / self.decisions
        return metrics


def loss_sums(logps_N: torch.Tensor, packed: Packed, objective: TriceConfig | Rlef) -> LossSums:
    """The sums of the objective over one micro-batch, with gradients, from its log-probabilities."""
    scores_S = sequence_scores(logps_N, packed.response_N, packed.responses, objective.length_penalty)
    rank_Q, pairs_Q, ordered_Q = ranking(
        objective.objective,
        packed.by_question(scores_S),
        packed.rewards_QK,
        packed.real_QK,
        packed.reference_QK,
        margin=objective.margin,
        beta=objective.beta,
        baseline_offset=objective.baseline_offset,
    )
    best_N = packed.best_N()
    decided: dict[str, Any] = {}
    if packed.opening_QJ is not None and packed.utility_Q2 is not None:
        sums_S = sequence_scores(logps_N, packed.response_N, packed.responses, 0.0)
        real_QJ = packed.opening_QJ >= 0
        opening_QJ = sums_S[packed.opening_QJ.clamp(min=0)]
        decided["utility"] = expected_utility(opening_QJ, packed.utility_Q2, real_QJ).sum()
        decided["decisions"] = int(real_QJ.any(1).sum())
    return LossSums(
        sft=-logps_N[best_N].sum(),
        tokens=int(best_N.sum()),
        rank=rank_Q.sum(),
        questions=len(packed.slot_QK),
        pairs=int(pairs_Q.sum()),
        ordered=int(ordered_Q.sum()),
        **decided,
    )


def _sft_tokens(examples: Sequence[TokenizedExample]) -> int:
    """The number of tokens over which L_sft of a batch is a mean."""
    best = [
        example.responses[example.rewards.index(max(example.rewards))]
        for example in examples
        if example.rewards
    ]
    return max(1, sum(sum(response.loss) for response in best))


class QuestionBatchSampler(BatchSampler):
    """The questions of every optimiser step, the same on all processes, in a new order in each epoch."""

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


class QuestionLoader(DataLoader[TokenizedExample]):
    """Batches of questions; the trainer sets the epoch."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


@dataclass
class TriceConfig(TrainingArguments):  # type: ignore[misc]
    """transformers' `TrainingArguments` with the settings of TRICE's objective.

    One optimiser step takes `batch_size` questions over all processes, instead of `per_device_train_batch_size`
    times `gradient_accumulation_steps`. Without `output_dir` no checkpoint is written unless `save_strategy` is
    given.

    Raises:
        InputError: If a setting of the objective is not valid or does not apply to it.

    Example:
        >>> from trice import TriceConfig
        >>> TriceConfig(num_train_epochs=1, batch_size=8, objective="dpo").length_penalty
        0.0
    """

    learning_rate: float = field(default=1e-4, metadata={"help": "the highest learning rate"})
    logging_steps: float = field(default=1, metadata={"help": "steps between log entries"})
    report_to: Any = field(default="none", metadata={"help": "trackers that transformers knows"})
    batch_size: int = field(
        default=32, metadata={"help": "questions of one optimiser step, over all processes"}
    )
    token_budget: int = field(
        default=4096,
        metadata={"help": "tokens of a micro-batch; bounds the memory and does not change the loss"},
    )
    max_length: int = field(
        default=512,
        metadata={"help": "tokens of prompt and response; longer questions are left out and counted"},
    )
    objective: Any = field(
        default="rank", metadata={"help": "L_rank: rank, weighted, dpo, listwise, grpo or reinforce"}
    )
    alpha: float = field(default=1.0, metadata={"help": "the weight of L_rank"})
    sft: float = field(default=1.0, metadata={"help": "the weight of L_sft"})
    utility: float = field(
        default=0.0, metadata={"help": "the weight of the expected utility of the decision"}
    )
    margin: float = field(default=0.0, metadata={"help": "the margin of rank and weighted"})
    beta: float = field(default=0.1, metadata={"help": "the inverse temperature of dpo"})
    baseline_offset: float = field(
        default=0.0, metadata={"help": "by how much the baseline of reinforce is below the mean reward"}
    )
    length_penalty: Any = field(
        default=None,
        metadata={"help": "log-likelihoods are divided by length**length_penalty; default 1, and 0 for dpo"},
    )

    def __post_init__(self) -> None:
        names = set(Rlef.model_fields) - set(Clone.model_fields) | {
            "batch_size",
            "token_budget",
            "max_length",
        }
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        self.length_penalty = parse(Rlef, given, "TriceConfig").length_penalty
        if self.output_dir is None:  # type: ignore[has-type]
            self.output_dir = mkdtemp(prefix="trice-")
            if self.save_strategy == "steps":  # type: ignore[has-type]
                self.save_strategy = "no"
        self.per_device_train_batch_size = self.batch_size
        self.remove_unused_columns = False
        self.label_names: list[str] = []
        self.dataloader_pin_memory, self.ddp_find_unused_parameters = False, False
        super().__post_init__()
        if self.n_gpu > 1:  # one process trains on one GPU; several GPUs take several processes
            self._n_gpu = 1


class TriceTrainer(Trainer):  # type: ignore[misc]
    """transformers' `Trainer` with the losses of both stages, for any PEFT or plain causal LM.

    It computes log-probabilities with `PackedForward`: shared prompts once, logits only where a response token is
    predicted. The model is trained in place, and its `forward` is unchanged afterwards.

    Args:
        model: A PEFT model or a plain causal LM of transformers.
        args: `TriceConfig`: transformers' training arguments and the settings of the objective.
        train_dataset: Records (dicts or a `datasets.Dataset`) with `prompt` and `response` for stage 1, or with
            `prompt`, `responses` and `rewards` for stage 2; or `TokenizedExample`s.
        processing_class: The tokenizer, for records.
        validate: Answers held-out questions, for `eval_strategy`: from the number of a process and of all processes to
            the numbers of responses, correct ones and calls of its share, and the sum of their rewards.
        kwargs: Further arguments of `Trainer`, such as `callbacks` or `optimizers`.

    Raises:
        InputError: If a record has other fields, or every question is longer than `args.max_length`.
        TriceError: If the model's log-probabilities cannot be computed (see `PackedForward`).

    Example:
        >>> from peft import LoraConfig, get_peft_model
        >>> from trice import TriceConfig, TriceTrainer
        >>> model = get_peft_model(model, LoraConfig(target_modules="all-linear"))          # doctest: +SKIP
        >>> rows = [{"prompt": "What is 271 * 828?", "responses": ["calculator(271*828)", "224000"],
        ...          "rewards": [1.0, 0.0]}]
        >>> trainer = TriceTrainer(model, TriceConfig(num_train_epochs=1), rows, tokenizer) # doctest: +SKIP
        >>> trainer.train().training_loss                                                   # doctest: +SKIP
        2.31
    """

    control: Any

    def __init__(
        self,
        model: Any,
        args: TriceConfig | None = None,
        train_dataset: Sequence[TokenizedExample | Mapping[str, Any]] = (),
        processing_class: Any = None,
        validate: Validate | None = None,
        **kwargs: Any,
    ) -> None:
        args = args or TriceConfig()
        super().__init__(
            model,
            args,
            data_collator=list,
            train_dataset=drop_long(tokenize(train_dataset, processing_class), args.max_length),
            # `Trainer` asks for a data set if it evaluates; `evaluate` does not use it.
            eval_dataset=[] if validate else None,
            processing_class=processing_class,
            **kwargs,
        )
        self.validate, self.forward = validate, PackedForward(self.model, self.train_dataset)
        self._step_metrics: dict[str, float] = {}
        if args.objective == "dpo":
            self.add_reference()

    def get_train_dataloader(self) -> QuestionLoader:
        """Batches of questions, the same in every process; `training_step` takes a share of the micro-batches."""
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        sampler = QuestionBatchSampler(len(self.train_dataset), self.args.batch_size, int(seed))
        return QuestionLoader(self.train_dataset, batch_sampler=sampler, collate_fn=list)

    def training_step(
        self, model: Any, inputs: list[TokenizedExample], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Forward and backward over one batch of questions; returns the detached loss.

        Every process gets the same number of micro-batches, and a question is never divided. A process without a
        micro-batch computes one with weight 0, because the others wait for it when gradients or weights are
        gathered.
        """
        model.train()
        tokens, questions = _sft_tokens(inputs), len(inputs)

        def mean_loss(parts: LossSums) -> torch.Tensor:
            ranked = self.args.sft * parts.sft / tokens + self.args.alpha * parts.rank / questions
            loss: torch.Tensor = ranked - self.args.utility * parts.utility / questions
            return loss

        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        parts = micro_batches(inputs, self.args.token_budget, processes)[process::processes]
        sums = torch.zeros(len(LossSums._fields), dtype=torch.float64, device=self.args.device)
        with self.forward:
            for number, part in enumerate(parts):
                last = number == len(parts) - 1
                packed = self.forward.pack(part or inputs[:1], self.args.device)
                self.accelerator.gradient_state._set_sync_gradients(last)
                with nullcontext() if last else self.accelerator.no_sync(model):
                    with self.compute_loss_context_manager():
                        part_sums = loss_sums(self.forward(packed, through=model), packed, self.args)
                    loss = mean_loss(part_sums)
                    # Gradients are averaged over processes.
                    self.accelerator.backward(loss * (processes if part else 0))
                if part:
                    sums += part_sums.tensor()
        sums = self.accelerator.reduce(sums)
        self._step_metrics = LossSums(*sums.tolist()).metrics()
        return mean_loss(LossSums(*sums)).float()

    @torch.no_grad()
    def add_reference(self) -> None:
        """Store the scores of every candidate under the current policy, with which DPO compares."""
        policy = self.accelerator.unwrap_model(self.model)
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        policy.eval()
        found = []
        numbers = {id(example): number for number, example in enumerate(self.train_dataset)}
        parts = micro_batches(self.train_dataset, self.args.token_budget, processes)
        for part in filter(None, parts[process::processes]):
            packed = self.forward.pack(part, self.args.device)
            logps_N = self.forward(packed, through=policy)
            scores_S = sequence_scores(logps_N, packed.response_N, packed.responses, self.args.length_penalty)
            split = torch.split(scores_S.cpu(), [len(example.responses) for example in part])
            found += [(numbers[id(example)], s.tolist()) for example, s in zip(part, split, strict=True)]
        for number, scores in gather_object(found):
            self.train_dataset[number] = replace(self.train_dataset[number], reference=scores)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Answer the held-out questions, a part in each process, and save a checkpoint."""
        assert self.validate
        with half_precision_autocast(self.forward.model):
            counted = self.validate(self.args.process_index, self.args.world_size)
        counts = torch.tensor(counted, dtype=torch.float32, device=self.args.device)
        metrics = validation_metrics(self.accelerator.reduce(counts, "sum").tolist())
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if not self.state.global_step:  # what training starts from is the best so far
            self.state.best_metric, self.state.best_global_step = metrics["eval_reward"], 0
        # The best checkpoint becomes the adapter.
        self.control.should_save = self.args.save_strategy != "no"
        return metrics

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the metrics of the step to those of `Trainer`."""
        super().log(logs | self._step_metrics if "loss" in logs else logs, *args, **kwargs)


class TrainingLog(TrainerCallback):  # type: ignore[misc]
    """Shows steps on `progress` and writes the trainer's history to a JSON Lines file."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self.path, self.progress = path, progress
        self.validated: list[str] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        shown = [f"{name} {logs[name]:.4g}" for name in ("loss", "rank_loss", "ordered") if name in logs]
        if "eval_accuracy" in logs:
            shares = (f"{name} {logs[f'eval_{name}']:.1%}" for name in ("accuracy", "tool_use"))
            reward = f"reward {logs['eval_reward']:.3f}"
            self.validated = [f"step {state.global_step}: {', '.join((*shares, reward))}"]
            self.progress.advance(0, *self.validated)
        if shown:  # the last entry has run times only
            self.progress.advance(1, ", ".join(shown + self.validated))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            write_log(self.path, state.log_history)

    on_train_end = on_save


def write_log(path: Path, history: list[dict[str, float]]) -> None:
    """Write the trainer's history, one step or validation in each line."""
    losses = ("loss", "sft_loss", "rank_loss", "ordered", "utility")
    names = ("step", *losses, "learning_rate", "grad_norm", *METRICS)
    entries = [
        {name.removeprefix("eval_"): entry[name] for name in names if name in entry} for entry in history
    ]
    write_rows(path, [entry for entry in entries if "loss" in entry or "accuracy" in entry])
