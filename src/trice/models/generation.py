"""Batched generation: prompts as token ids in, texts and ids out, each as soon as it is finished.

The tokens every prompt starts with (instruction, few-shot examples) are computed once; the samples of a
question come from one prefill; rows that have ended leave, waiting ones enter. What a row writes does not depend
on the rows beside it, but for the last bits of its logits. `generate` answers prompts that are all known; those of
a server come while others are being answered (`Live`). Beam search is `trice.models.beams`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from trice.models.batching import Ask, entrants, packed, shared_prefix
from trice.models.beams import beam_search
from trice.models.call_blocker import Bar
from trice.models.detokenizer import Detokenizer
from trice.models.engine import Done, Failure, Finish, Manner, Prompt, Written, reach, too_long
from trice.models.kv_cache import Rows, attending, own_head_needed
from trice.models.local import LocalModel
from trice.models.sampling import Sampling
from trice.models.token_sampling import bar, drawn, greedy, log_total, penalise


class TransformersEngine:
    """A model of transformers on this machine; `batch_size` counts rows, that is prompts × samples or beams."""

    def __init__(self, loaded: LocalModel, batch_size: int = 128) -> None:
        self.loaded, self.batch_size = loaded, batch_size

    def write(self, prompts: Sequence[Prompt], manner: Manner, done: Done) -> list[Failure]:
        """Answer every prompt; one that fills the model's context fails."""
        tokenizer, most = self.loaded.tokenizer, self.loaded.context - 1
        encoded = [manner.ids(tokenizer, prompt) for prompt in prompts]
        fitting = [number for number, ids in enumerate(encoded) if len(ids) <= most]
        asked = [Ask(encoded[number], prompts[number].key, prompts[number].samples) for number in fitting]
        written = generate(
            self.loaded, asked, manner.sampling, manner.finish,
            batch_size=self.batch_size, suppress=manner.bar(tokenizer) if manner.silent else None,
        )  # fmt: skip
        for index, found in written:
            done(fitting[index], {sample: manner.kept(tokenizer, each) for sample, each in found.items()})
        return [too_long(number, len(ids), most) for number, ids in enumerate(encoded) if len(ids) > most]


@torch.inference_mode()
def generate(
    loaded: LocalModel,
    asked: Sequence[Ask],
    sampling: Sampling,
    finish: Finish = lambda text, seen: None,
    *,
    batch_size: int = 128,
    suppress: Bar | None = None,
) -> Iterator[tuple[int, dict[int, Written]]]:
    """Yield (number of the prompt, finished samples of it by their numbers) in the order they are finished.

    `suppress` gives the tokens that may not be chosen after a text. A response ends at the model's end token, where
    `finish` says so, after `max_new_tokens`, or at the end of the model's context. Raises TriceError for a model
    that cannot be run in rows.
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
            yield from _write_all(
                Live(loaded, rows), asked, order, Way(sampling, finish, suppress), batch_size
            )


def _write_all(
    live: Live, asked: Sequence[Ask], order: Sequence[int], way: Way, size: int
) -> Iterator[tuple[int, dict[int, Written]]]:
    """Answer prompts in order, at most `size` rows at a time, those of one prompt that finish together together."""
    waiting, counts = list(reversed(order)), [len(ask.samples) for ask in asked]
    while waiting or len(live):
        for number in entrants(waiting, counts, size, len(live)):
            live.enter(number, asked[number], way)
        found: dict[int, dict[int, Written]] = {}
        for row in live.step():
            if row.text is not None:
                found.setdefault(row.number, {})[row.sample] = row.written
        yield from found.items()


def complete(
    loaded: LocalModel, prompts: Sequence[Sequence[int]], sampling: Sampling, finish: Finish
) -> list[str]:
    """One text for each prompt, in the prompts' order."""
    texts = [""] * len(prompts)
    for number, found in generate(loaded, [Ask(prompt) for prompt in prompts], sampling, finish):
        texts[number] = found[0].text
    return texts


class Way(NamedTuple):
    """How a response is written: `finish` says when it is over, `suppress` which tokens may not come next."""

    sampling: Sampling
    finish: Finish = lambda text, seen: None
    suppress: Bar | None = None

    def alike(self, other: Way) -> bool:
        """Whether both choose a token from the same logits in the same way."""
        mine, its = self.sampling, other.sampling
        same = ("temperature", "top_k", "top_p", "repetition_penalty", "logprobs")
        return all(getattr(mine, each) == getattr(its, each) for each in same)


@dataclass
class Row:
    """A response: `so_far` while it is under way, `text` when it is finished, which it may be only because it is
    `full`, that is as long as it may get. `number` is what its prompt was entered under."""

    number: Any
    sample: int
    prompt: Sequence[int]
    way: Way
    draw: random.Random
    detokenizer: Detokenizer
    logprobs: list[float] = field(default_factory=list)  # of the ids, where asked for
    text: str | None = None
    full: bool = False

    @property
    def ids(self) -> list[int]:
        """The ids that were chosen, without the end token."""
        return self.detokenizer.ids

    @property
    def so_far(self) -> str:
        """The text of the ids."""
        return self.detokenizer.text

    @property
    def written(self) -> Written:
        """What it is, finished."""
        return Written(self.text or "", self.ids, sum(self.logprobs) if self.way.sampling.logprobs else None)


class Live:
    """Samples, or greedy responses, of prompts that begin with what `rows` share, each written in its own way; new
    ones enter while others are under way. Runs within `attending`, in one thread."""

    def __init__(self, loaded: LocalModel, rows: Rows) -> None:
        self.loaded, self.rows, self.ends = loaded, rows, loaded.eos_ids
        self.context = loaded.context
        self._live: list[Row] = []
        self._entering: list[tuple[Any, Ask, Way]] = []

    def __len__(self) -> int:
        """The rows that are under way, or about to be."""
        return len(self._live) + sum(len(ask.samples) for _, ask, _ in self._entering)

    @property
    def numbers(self) -> list[Any]:
        """What the prompts of its rows, and of those that are about to enter, were entered under."""
        return [row.number for row in self._live] + [number for number, _, _ in self._entering]

    def enter(self, number: Any, ask: Ask, way: Way) -> None:
        """A prompt that the next step begins to answer."""
        self._entering.append((number, ask, way))

    @torch.inference_mode()
    def leave(self, gone: Callable[[Any], bool]) -> None:
        """Drop the rows of all prompts whose number is `gone`."""
        self._entering = [each for each in self._entering if not gone(each[0])]
        stays = [not gone(row.number) for row in self._live]
        if not all(stays):
            self._keep(stays)

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Write one token of every row; returns all of them, the finished ones for the last time."""
        states = [self.rows.step([row.ids[-1] for row in self._live])] if self._live else []
        if self._entering:
            own = [self._own(ask.ids) for _, ask, _ in self._entering]
            states.append(self.rows.join(own, [len(ask.samples) for _, ask, _ in self._entering]))
            for number, ask, way in self._entering:
                self._live += [self._row(number, ask, way, sample) for sample in ask.samples]
            self._entering = []
        if not states:
            return []
        self._write(self.rows.logits(torch.cat(states)))
        stepped = self._live
        self._keep([row.text is None for row in stepped])
        return stepped

    @torch.inference_mode()
    def chances(self, prompt: Sequence[int], beginnings: Sequence[Sequence[int]]) -> list[float]:
        """For each of some beginnings, as token ids, the probability that the model begins a response to the prompt
        with exactly these tokens: Π p(token | prompt, the tokens before it), at temperature 1."""
        rows = self.rows.beside()
        logits_VB = rows.logits(rows.join([self._own(prompt)], [len(beginnings)]))
        logprobs = [0.0] * len(beginnings)
        for place in range(max(map(len, beginnings))):
            if place:
                earlier = [tokens[min(place, len(tokens)) - 1] for tokens in beginnings]
                logits_VB = rows.logits(rows.step(earlier))
            totals_B = log_total(logits_VB)
            for row, tokens in enumerate(beginnings):
                if place < len(tokens):
                    logprobs[row] += float(logits_VB[tokens[place], row].float() - totals_B[row])
        return [math.exp(logprob) for logprob in logprobs]

    def _row(self, number: Any, ask: Ask, way: Way, sample: int) -> Row:
        # Seeded by text, which every version of Python hashes alike.
        draw = random.Random(f"{way.sampling.seed} {ask.key} {sample}")
        return Row(number, sample, ask.ids, way, draw, Detokenizer(self.loaded.tokenizer))

    def _own(self, ids: Sequence[int]) -> list[int]:
        return list(ids[self.rows.shared.length :])

    def _keep(self, stays: Sequence[bool]) -> None:
        order = packed(stays)
        self.rows.keep(order)
        self._live = [self._live[row] for row in order]

    def _write(self, logits_VB: torch.Tensor) -> None:
        """Choose the next token of each row, and settle the rows that it ends."""
        for places in self._alike():
            rows = [self._live[place] for place in places]
            part_VB = logits_VB if len(rows) == len(self._live) else logits_VB[:, places]
            for row, (token, logprob) in zip(rows, _choose(rows, part_VB), strict=True):
                self._add(row, token, logprob)

    def _alike(self) -> list[list[int]]:
        """The rows, by their places, that choose in the same way."""
        kinds: list[list[int]] = []
        for place, row in enumerate(self._live):
            for kind in kinds:
                if row.way is self._live[kind[0]].way or row.way.alike(self._live[kind[0]].way):
                    kind.append(place)
                    break
            else:
                kinds.append([place])
        return kinds

    def _add(self, row: Row, token: int, logprob: float) -> None:
        if token in self.ends:
            row.text = row.so_far
            return
        row.logprobs.append(logprob)
        text = row.detokenizer.add(token)
        row.text = row.way.finish(text, row.detokenizer.kept)
        if row.text is not None:
            count = reach(self.loaded.tokenizer, row.ids, row.text)
            del row.ids[count:], row.logprobs[count:]
        elif len(row.ids) >= min(row.way.sampling.max_new_tokens, self.context - len(row.prompt)):
            row.text, row.full = row.so_far, True


def _choose(rows: Sequence[Row], logits_VB: torch.Tensor) -> Iterator[tuple[int, float]]:
    """The next token of each row and its log-probability (0 where nobody asks for it)."""
    sampling = rows[0].way.sampling
    totals_B = log_total(logits_VB) if sampling.logprobs else None
    plain_VB = logits_VB.clone() if totals_B is not None and sampling.repetition_penalty != 1 else logits_VB
    penalise(logits_VB, ([*row.prompt, *row.ids] for row in rows), sampling.repetition_penalty)
    bar(logits_VB, (row.way.suppress(row.so_far) if row.way.suppress else () for row in rows))
    if sampling.greedy:
        tokens_B = greedy(logits_VB)
    else:
        tokens_B = drawn(logits_VB, sampling, [row.draw.random() for row in rows])
    if totals_B is None:
        return zip(tokens_B.tolist(), [0.0] * len(rows), strict=True)
    logprobs_B = plain_VB.gather(0, tokens_B.unsqueeze(0)).squeeze(0).float() - totals_B
    return zip(tokens_B.tolist(), logprobs_B.tolist(), strict=True)
