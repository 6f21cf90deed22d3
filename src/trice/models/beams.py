"""Beam search over many prompts at once, with the results of transformers' own: a prompt's beams are rows.

A finished beam is scored by its log-probability over its length, and a prompt is done when no running beam can beat
the worst of its finished ones (`early_stopping: false`, `length_penalty: 1`). With a temperature the continuations
are drawn without replacement (Kool et al. 2019) from the tokens that `top_k` and `top_p` leave.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from trice.models.batching import Ask, entrants, packed
from trice.models.call_blocker import Bar
from trice.models.detokenizer import Detokenizer, tail
from trice.models.engine import Finish, Written, reach
from trice.models.kv_cache import Rows
from trice.models.local import LocalModel
from trice.models.sampling import Sampling
from trice.models.token_sampling import bar, log_total, nucleus, penalise, top

TAIL = 80  # characters of a beam by which tokens are barred: the longest name of a tool, and more
FLOOR = -1e9  # the score of a beam that is not there


@dataclass
class _Beam:
    ids: list[int]
    score: float


@dataclass
class _Search:
    """The beams of one prompt; the first time round they are all alike, and only one counts."""

    number: int
    ask: Ask
    draw: random.Random
    running: list[_Beam]
    finished: list[_Beam] = field(default_factory=list)  # scores over lengths, the best first


class _Beams:
    def __init__(
        self,
        loaded: LocalModel,
        rows: Rows,
        sampling: Sampling,
        finish: Finish,
        suppress: Bar | None,
    ) -> None:
        self.loaded, self.rows, self.sampling, self.finish = loaded, rows, sampling, finish
        self.suppress, self.ends, self.width = suppress, loaded.eos_ids, sampling.beams
        self.kept = max(2, 1 + len(self.ends)) * self.width  # so many continuations are looked at

    def run(
        self, asked: Sequence[Ask], order: Sequence[int], size: int
    ) -> Iterator[tuple[int, dict[int, Written]]]:
        waiting, live = list(reversed(order)), list[_Search]()
        width, past = self.width, self.rows.shared.length
        while waiting or live:
            states = (
                [self.rows.step([beam.ids[-1] for each in live for beam in each.running])] if live else []
            )
            entering = entrants(waiting, [width] * len(asked), size, len(live) * width)
            if entering:
                own = [list(asked[number].ids[past:]) for number in entering]
                states.append(self.rows.join(own, [width] * len(entering)))
                live += [self._search(number, asked[number]) for number in entering]
            parents = self._advance(live, self.rows.logits(torch.cat(states)))
            self.rows.keep(parents, min(len(each.ask.ids) for each in live) - past)
            over = [self._over(each) for each in live]
            for each, done in zip(live, over, strict=True):
                if done:
                    yield each.number, self._written(each)
            stay = packed([not done for done in over])
            self.rows.keep([search * width + beam for search in stay for beam in range(width)])
            live = [live[search] for search in stay]

    def _search(self, number: int, ask: Ask) -> _Search:
        beams = [_Beam([], 0.0 if beam == 0 else FLOOR) for beam in range(self.width)]
        return _Search(number, ask, random.Random(f"{self.sampling.seed} {ask.key}"), beams)

    def _advance(self, live: Sequence[_Search], logits_VB: torch.Tensor) -> list[int]:
        """Take every search one token further; returns the row that each row goes on from."""
        totals_B = log_total(logits_VB)
        histories = ([*each.ask.ids, *beam.ids] for each in live for beam in each.running)
        penalise(logits_VB, histories, self.sampling.repetition_penalty, totals_B)
        if self.suppress:
            texts = (tail(self.loaded.tokenizer, beam.ids, TAIL) for each in live for beam in each.running)
            bar(logits_VB, map(self.suppress, texts))
        scores_Bk, tokens_Bk = self._continuations(logits_VB, totals_B)
        scores, tokens = scores_Bk.tolist(), tokens_Bk.tolist()
        parents: list[int] = []
        for place, search in enumerate(live):
            first = place * self.width
            here = range(first, first + self.width)
            found = [
                (beam.score + score, row, token)
                for row, beam in zip(here, search.running, strict=True)
                for score, token in zip(scores[row], tokens[row], strict=True)
                if score > -math.inf
            ]
            parents += self._extend(search, self._best(found, search.draw), first)
        return parents

    def _continuations(
        self, logits_VB: torch.Tensor, totals_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of the tokens each beam may go on with, and the tokens, both [B, k]."""
        if self.sampling.greedy:
            values_Bk, tokens_Bk = top(logits_VB, self.kept)
            return values_Bk - totals_B.unsqueeze(1), tokens_Bk
        weights_Bk, tokens_Bk = nucleus(logits_VB, self.sampling)
        logits_Bk = logits_VB.T.gather(1, tokens_Bk).float() - totals_B.unsqueeze(1)
        return (logits_Bk / self.sampling.temperature).masked_fill(weights_Bk == 0, -math.inf), tokens_Bk

    def _best(self, found: list[tuple[float, int, int]], draw: random.Random) -> list[tuple[float, int, int]]:
        """The continuations to look at: the best, or those drawn, which Gumbel noise puts first."""
        if self.sampling.greedy:
            return sorted(found, key=lambda each: -each[0])[: self.kept]
        noisy = [(each[0] - math.log(-math.log(draw.random() or 1e-300)), each) for each in found]
        return [each for _, each in sorted(noisy, key=lambda pair: -pair[0])[: self.kept]]

    def _extend(self, search: _Search, best: Sequence[tuple[float, int, int]], first: int) -> list[int]:
        """Settle the beams that end, go on with the best others; returns these' rows."""
        length = len(search.running[0].ids) + 1
        last = length >= self._most(search)
        old = {first + place: beam.ids for place, beam in enumerate(search.running)}
        running: list[tuple[_Beam, int]] = []
        for place, (score, row, token) in enumerate(best):
            beam = _Beam([*old[row], token], score)
            if token in self.ends or last:
                if place < self.width:
                    search.finished.append(_Beam(beam.ids, score / length))
            else:
                running.append((beam, row))
        search.finished = sorted(search.finished, key=lambda beam: -beam.score)[: self.width]
        running = sorted(running, key=lambda pair: -pair[0].score)[: self.width]
        running += [(_Beam([*old[first], best[0][2]], FLOOR), first)] * (self.width - len(running))
        search.running = [beam for beam, _ in running]
        return [row for _, row in running]

    def _most(self, search: _Search) -> int:
        """Tokens that a response may have."""
        return min(self.sampling.max_new_tokens, self.loaded.context - len(search.ask.ids))

    def _over(self, search: _Search) -> bool:
        length = len(search.running[0].ids)
        if length >= self._most(search):
            return True
        if len(search.finished) < self.width:
            return False
        return search.running[0].score / length <= search.finished[-1].score

    def _written(self, search: _Search) -> dict[int, Written]:
        """The samples that are wanted, best first."""
        return {
            sample: self._cut(search.finished[sample].ids)
            for sample in search.ask.samples
            if sample < len(search.finished)
        }

    def _cut(self, ids: Sequence[int]) -> Written:
        """A beam up to its end token, or to where it was over."""
        ids = [token for token in ids if token not in self.ends]
        written = Detokenizer(self.loaded.tokenizer)
        for token in ids:
            over = self.finish(written.add(token), written.kept)
            if over is not None:
                return Written(over, written.ids[: reach(self.loaded.tokenizer, written.ids, over)])
        return Written(written.text, written.ids)


def beam_search(
    loaded: LocalModel,
    rows: Rows,
    asked: Sequence[Ask],
    order: Sequence[int],
    sampling: Sampling,
    finish: Finish,
    size: int,
    suppress: Bar | None = None,
) -> Iterator[tuple[int, dict[int, Written]]]:
    """The best of `beams` beams for each prompt, drawn where there is a temperature, as each prompt is done.

    `finish` cuts a text where it is over, as in decoding, but does not steer the search."""
    return _Beams(loaded, rows, sampling, finish, suppress).run(asked, order, size)
