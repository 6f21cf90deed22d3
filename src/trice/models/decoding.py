"""Batched generation: prompts as token ids in, texts and ids out, each as soon as it is finished.

The tokens every prompt starts with (instruction, few-shot examples) are computed once; the samples of a
question come from one prefill; rows that have ended leave, waiting ones enter. What a row writes does not depend
on the rows beside it, but for the last bits of its logits. Beam search is `trice.models.beams`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from trice.models.batches import Ask, entrants, packed, shared_prefix
from trice.models.beams import beam_search
from trice.models.draw import bar, drawn, greedy, log_total, penalise
from trice.models.engine import Done, Failure, Finish, Manner, Prompt, Written, reach
from trice.models.local import LocalModel
from trice.models.rows import Rows, attending, own_head_needed
from trice.prompts import decode
from trice.sampling import Sampling


class TransformersEngine:
    """A model of transformers on this machine; `batch_size` counts rows, that is prompts × samples or beams."""

    def __init__(self, loaded: LocalModel, batch_size: int = 128) -> None:
        self.loaded, self.batch_size = loaded, batch_size

    def write(self, prompts: Sequence[Prompt], manner: Manner, done: Done) -> list[Failure]:
        """Answer every prompt; none fails."""
        tokenizer = self.loaded.tokenizer
        asked = [Ask(manner.ids(tokenizer, prompt), prompt.key, prompt.samples) for prompt in prompts]
        written = generate(
            self.loaded, asked, manner.sampling, manner.finish,
            batch_size=self.batch_size, suppress=manner.barred(tokenizer),
        )  # fmt: skip
        for index, found in written:
            done(index, {sample: manner.kept(tokenizer, each) for sample, each in found.items()})
        return []


@torch.inference_mode()
def generate(
    loaded: LocalModel,
    asked: Sequence[Ask],
    sampling: Sampling,
    finish: Finish = lambda text: None,
    *,
    batch_size: int = 128,
    suppress: Sequence[int] = (),
) -> Iterator[tuple[int, dict[int, Written]]]:
    """Yield (number of the prompt, finished samples of it by their numbers) in the order they are finished.

    `suppress` are token ids that are never chosen. A response ends at the model's end token, where `finish` says
    so, or after `max_new_tokens`. Raises TriceError for a model that cannot be run in rows.
    """
    if not asked:
        return
    shared = shared_prefix([ask.ids for ask in asked])
    order = sorted(range(len(asked)), key=lambda number: (-len(asked[number].ids), number))
    if loaded.own_head is None:
        loaded.own_head = own_head_needed(loaded, asked[order[0]].ids)
    with attending(loaded):
        rows = Rows(loaded, asked[0].ids[:shared], loaded.own_head)
        if sampling.beams > 1:
            yield from beam_search(loaded, rows, asked, order, sampling, finish, batch_size, suppress)
        else:
            yield from _Decoder(loaded, rows, sampling, finish, suppress).run(asked, order, batch_size)


def complete(
    loaded: LocalModel, prompts: Sequence[Sequence[int]], sampling: Sampling, finish: Finish
) -> list[str]:
    """One text for each prompt, in the prompts' order."""
    texts = [""] * len(prompts)
    for number, found in generate(loaded, [Ask(prompt) for prompt in prompts], sampling, finish):
        texts[number] = found[0].text
    return texts


@dataclass
class _Row:
    """A response under way."""

    number: int
    sample: int
    prompt: Sequence[int]
    draw: random.Random
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)  # of the ids, where asked for
    text: str | None = None


class _Decoder:
    """Samples, or the greedy response, of many prompts."""

    def __init__(
        self, loaded: LocalModel, rows: Rows, sampling: Sampling, finish: Finish, suppress: Sequence[int]
    ) -> None:
        self.loaded, self.rows, self.sampling, self.finish = loaded, rows, sampling, finish
        self.suppress, self.ends = suppress, loaded.eos_ids

    def run(
        self, asked: Sequence[Ask], order: Sequence[int], size: int
    ) -> Iterator[tuple[int, dict[int, Written]]]:
        waiting, counts = list(reversed(order)), [len(ask.samples) for ask in asked]
        live: list[_Row] = []
        while waiting or live:
            states = [self.rows.step([row.ids[-1] for row in live])] if live else []
            entering = entrants(waiting, counts, size, len(live))
            if entering:
                own = [list(asked[number].ids[self.rows.shared.length :]) for number in entering]
                states.append(self.rows.join(own, [counts[number] for number in entering]))
                live += [
                    self._row(number, asked[number], sample)
                    for number in entering
                    for sample in asked[number].samples
                ]
            self._write(live, self.rows.logits(torch.cat(states)))
            yield from self._finished(live)
            order_now = packed([row.text is None for row in live])
            self.rows.keep(order_now)
            live = [live[row] for row in order_now]

    def _row(self, number: int, ask: Ask, sample: int) -> _Row:
        # Seeded by text, which every version of Python hashes alike.
        return _Row(number, sample, ask.ids, random.Random(f"{self.sampling.seed} {ask.key} {sample}"))

    def _write(self, live: Sequence[_Row], logits_VB: torch.Tensor) -> None:
        """Choose the next token of each row, and settle the rows that it ends."""
        for row, (token, logprob) in zip(live, self._choose(live, logits_VB), strict=True):
            if token in self.ends:
                row.text = decode(self.loaded.tokenizer, row.ids)
                continue
            row.ids.append(token)
            row.logprobs.append(logprob)
            row.text = self.finish(text := decode(self.loaded.tokenizer, row.ids))
            if row.text is not None:
                count = reach(self.loaded.tokenizer, row.ids, row.text)
                del row.ids[count:], row.logprobs[count:]
            elif len(row.ids) == self.sampling.max_new_tokens:
                row.text = text

    def _choose(self, live: Sequence[_Row], logits_VB: torch.Tensor) -> Iterator[tuple[int, float]]:
        """The next token of each row and its log-probability (0 where nobody asks for it)."""
        sampling = self.sampling
        totals_B = log_total(logits_VB) if sampling.logprobs else None
        plain_VB = (
            logits_VB.clone() if totals_B is not None and sampling.repetition_penalty != 1 else logits_VB
        )
        penalise(logits_VB, ([*row.prompt, *row.ids] for row in live), sampling.repetition_penalty)
        bar(logits_VB, self.suppress)
        if sampling.temperature:
            tokens_B = drawn(logits_VB, sampling, [row.draw.random() for row in live])
        else:
            tokens_B = greedy(logits_VB)
        if totals_B is None:
            return zip(tokens_B.tolist(), [0.0] * len(live), strict=True)
        logprobs_B = plain_VB.gather(0, tokens_B.unsqueeze(0)).squeeze(0).float() - totals_B
        return zip(tokens_B.tolist(), logprobs_B.tolist(), strict=True)

    def _finished(self, live: Sequence[_Row]) -> Iterator[tuple[int, dict[int, Written]]]:
        """The finished responses, those of one prompt together."""
        found: dict[int, dict[int, Written]] = {}
        for row in live:
            if row.text is not None:
                logprob = sum(row.logprobs) if self.sampling.logprobs else None
                found.setdefault(row.number, {})[row.sample] = Written(row.text, row.ids, logprob)
        yield from found.items()
