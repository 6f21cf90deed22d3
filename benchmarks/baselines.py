"""What training is measured against: the published algorithms and TRL's trainer.

Every step here takes the same examples and gives the same loss as `trice.training`. The baselines are given their
best: no copies or reductions that the published code makes beyond its algorithm, no optimiser, and for TRL the
fastest of its settings on a CPU. Does not cover other stages.
"""

from __future__ import annotations

import random
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from trice.datasets import load
from trice.datasets.published import read_candidates
from trice.formats.prompt import load_template
from trice.tasks.instructions import MATH as INSTRUCTION
from trice.training.losses import rank_loss, sequence_scores
from trice.training.packed_forward import PackedForward, half_precision_autocast
from trice.training.packing import Layout, TokenizedExample, pack
from trice.training.settings import Rlef
from trice.training.tokenization import tokenize_example
from trice.training.trainer import LossSums, loss_sums
from trice.training_data import Candidate, Candidates
from trice.types import dataset_of

Step = Callable[[Any, Sequence[TokenizedExample]], LossSums]
DATASETS = ("ASDiv", "SVAMP")
LORA = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}


def questions(count: int, k: int, tokenizer: Any, data: Path | None = None) -> list[TokenizedExample]:
    """The first `count` questions that have k candidates, with the first k as they were collected.

    Where no row of `data` has as many as k, those with the most are filled up with copies of their own candidates
    in which the digits are others, rewarded like the row's worst.
    """
    draw, template = random.Random(0), load_template("alpaca")
    rows = _collected(data) if data else _starter(count, draw)
    enough = min(k, max(len(row.candidates) for row in rows))
    rows = [row for row in rows if len(row.candidates) >= enough][:count]
    if len(rows) < count:
        raise SystemExit(f"{data}: {len(rows)} questions of {', '.join(DATASETS)} have {enough} candidates")
    examples = []
    for row in rows:
        real = [each.response for each in row.candidates[:k]]
        made = [_other_digits(draw.choice(real), draw) for _ in range(k - len(real))]
        rewards = [each.reward for each in row.candidates]
        scores = rewards[:k] + [min(rewards)] * len(made)
        examples.append(
            tokenize_example(template, tokenizer, row.instruction, row.input, real + made, scores)
        )
    return examples


def _collected(data: Path) -> list[Candidates]:
    return [row for row in read_candidates(data) if dataset_of(row.id) in DATASETS]


def _starter(count: int, draw: random.Random) -> list[Candidates]:
    """Questions with their gold call and a wrong one."""
    rows = []
    for row in load("starter", train=count, test=1).train:
        gold = f"calculator({(row.model_extra or {})['expression']})"
        calls = [gold, _other_digits(gold, draw)]
        made = [
            Candidate(response=each, reward=reward) for each, reward in zip(calls, (20.0, 5.0), strict=True)
        ]
        rows.append(Candidates(instruction=INSTRUCTION, input=row.input, candidates=made))
    return rows


def _other_digits(text: str, draw: random.Random) -> str:
    return "".join(draw.choice("123456789") if letter.isdigit() else letter for letter in text)


def cloning(examples: Sequence[TokenizedExample]) -> list[TokenizedExample]:
    """The questions as stage 1 has them, each with its best response alone."""
    return [TokenizedExample(e.prompt, [e.responses[best(e)]], [0.0]) for e in examples]


def best(example: TokenizedExample) -> int:
    """The best-rewarded response, the first of equals."""
    return example.rewards.index(max(example.rewards))


def lora_model(base: Any, dropout: float, examples: Sequence[TokenizedExample]) -> tuple[Any, PackedForward]:
    """A PEFT model on `base` with the paper's LoRA, and its packed forward pass. Its B matrices are not zero, as
    they are in a new adapter, so equal losses also compare the LoRA layers."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(base, LoraConfig(lora_dropout=dropout, **LORA)).train()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    forward = PackedForward(model, examples)
    assert forward.strategy.layout == "blocks", forward.strategy
    return model, forward


def ours(
    forward: PackedForward, examples: Sequence[TokenizedExample], layout: Layout = "blocks"
) -> torch.Tensor:
    """Our loss of either stage over one batch."""
    return loss_of(our_sums(forward, examples, layout))


def our_sums(
    forward: PackedForward, examples: Sequence[TokenizedExample], layout: Layout = "blocks"
) -> LossSums:
    """The sums of our loss, which is that of either stage."""
    packed = pack(examples, layout, forward.model.device)
    return loss_sums(forward(packed), packed, Rlef())


def loss_of(parts: LossSums) -> torch.Tensor:
    """L_rank + L_sft of a whole batch."""
    return parts.sft / parts.tokens + parts.rank / parts.questions


def _padded(
    rows: Sequence[tuple[list[int], list[int]]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, attention mask and labels (-100 on prompts and padding), each [rows, longest row]."""
    width = max(len(prompt) + len(ids) for prompt, ids in rows)
    tokens, mask = torch.zeros(2, len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), -100)
    for number, (prompt, ids) in enumerate(rows):
        end = len(prompt) + len(ids)
        tokens[number, :end], mask[number, :end] = torch.tensor(prompt + ids), 1
        labels[number, len(prompt) : end] = torch.tensor(ids)
    return tokens.to(device), mask.to(device), labels.to(device)


def published_stage2(model: Any, examples: Sequence[TokenizedExample]) -> torch.Tensor:
    """The published algorithm's loss of stage 2 over one batch."""
    return loss_of(published_parts2(model, examples))


def published_parts2(model: Any, examples: Sequence[TokenizedExample]) -> LossSums:
    """The published trainer's algorithm: every candidate a padded sequence with its own copy of the prompt, logits
    and log-softmax of all positions, then a gather. Takes as many candidates for each question.

    Only the reductions are ours: means over response tokens and questions, where the published ones go over
    padding. Its copy of the log-probabilities is left out.
    """
    k, device = len(examples[0].responses), model.device
    tokens, mask, labels = _padded([(e.prompt, r.ids) for e in examples for r in e.responses], device)
    with half_precision_autocast(model):
        logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
    logps, targets = logits.float().log_softmax(-1)[:, :-1], labels[:, 1:]
    real = targets != -100
    chosen = logps.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    response = torch.arange(len(tokens), device=device).unsqueeze(1).expand_as(targets)[real]
    scores = sequence_scores(chosen[real], response, len(tokens)).view(-1, k)
    rewards = torch.tensor([e.rewards for e in examples], dtype=torch.float64, device=device)
    ranked = rank_loss(scores, rewards, torch.ones_like(rewards, dtype=torch.bool))
    gold = torch.tensor([number * k + best(e) for number, e in enumerate(examples)], device=device)
    sft = -chosen[gold][real[gold]].sum()
    pairs, ordered = int(ranked.pairs_Q.sum()), int(ranked.ordered_Q.sum())
    return LossSums(sft, sft_tokens(examples), ranked.loss_Q.sum(), len(examples), pairs, ordered)


def published_stage1(model: Any, examples: Sequence[TokenizedExample]) -> torch.Tensor:
    """The published fine-tuning's loss over one batch."""
    return loss_of(published_parts1(model, examples))


def published_parts1(model: Any, examples: Sequence[TokenizedExample]) -> LossSums:
    """The published fine-tuning, which is transformers' own: a padded batch, the model's loss over all logits."""
    rows = [(e.prompt, e.responses[best(e)].ids) for e in examples]
    tokens, mask, labels = _padded(rows, model.device)
    with half_precision_autocast(model):
        loss = model(input_ids=tokens, attention_mask=mask, labels=labels, use_cache=False).loss
    count = sft_tokens(examples)
    return LossSums(loss * count, count, torch.zeros_like(loss), len(examples), 0, 0)


def sft_tokens(examples: Sequence[TokenizedExample]) -> int:
    """How many tokens the SFT term averages over."""
    return sum(sum(e.responses[best(e)].loss) for e in examples)


def chunked(step: Step, model: Any, chunks: Sequence[Sequence[TokenizedExample]]) -> torch.Tensor:
    """Forward and backward of a batch chunk by chunk, which needs the memory of one; the whole batch's loss."""
    everything = [e for chunk in chunks for e in chunk]
    tokens, questions = sft_tokens(everything), len(everything)
    total = torch.zeros((), device=model.device)
    for chunk in chunks:
        parts = step(model, chunk)
        loss = parts.sft / tokens + parts.rank / questions
        loss.backward()
        total += loss.detach()
    return total


class TrlSft:
    """TRL's SFTTrainer on a PEFT model, with the best response of each example as its completion.

    Calling it runs forward and backward of one optimiser step over all examples and returns the loss; gradients
    stay, the weights do not move. `settings` are those of SFTConfig, over the best we found (precision and
    checkpointing are set once a process). The trainer patches the forward of the model that it is given in such a
    way that other calls are as before.
    """

    BEST = {
        "bf16": False,  # the comparison is in float32
        "gradient_checkpointing": False,
        "packing": True,  # rows without padding, one after another: large allocations cost more than they save
        "per_device_train_batch_size": 1,
        "max_length": 512,
    }

    def __init__(
        self, model: Any, tokenizer: Any, examples: Sequence[TokenizedExample], **settings: Any
    ) -> None:
        from trl import SFTConfig, SFTTrainer

        from datasets import Dataset, disable_progress_bars

        disable_progress_bars()
        settings = self.BEST | settings
        rows = [(e.prompt, e.responses[best(e)].ids) for e in examples]
        data = Dataset.from_list(
            [{"input_ids": prompt + ids, "labels": [-100] * len(prompt) + ids} for prompt, ids in rows]
        )
        with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cpu = model.device.type == "cpu"
            config = SFTConfig(scratch, use_cpu=cpu, report_to="none", **settings)
            self.trainer = SFTTrainer(model, config, train_dataset=data, processing_class=tokenizer)
        self.trainer.model_wrapped = self.trainer.accelerator.prepare(self.trainer.model)

    def __call__(self) -> torch.Tensor:
        trainer = self.trainer
        loader = trainer.get_train_dataloader()
        steps = trainer.current_gradient_accumulation_steps = len(loader)
        batches, tokens = trainer.get_batch_samples(iter(loader), steps, trainer.args.device)
        losses = [trainer.training_step(trainer.model_wrapped, batch, tokens) for batch in batches]
        return torch.stack(losses).sum()


def timed(step: Callable[[], torch.Tensor], model: Any) -> tuple[float, float]:
    """Seconds and loss of one forward and backward. A step that has gone backward itself returns a plain number."""
    model.zero_grad()
    finished(model.device)
    start = time.perf_counter()
    loss = step()
    if loss.requires_grad:
        loss.backward()
    finished(model.device)
    return time.perf_counter() - start, float(loss.detach())


def finished(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
