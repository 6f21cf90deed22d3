"""Beam search over many prompts at once, with the same results as transformers' beam search. Each beam is a row.

A finished beam is scored by its log-probability divided by its length, and a prompt is finished when no running
beam can beat the worst of its finished ones (`early_stopping: false`, `length_penalty: 1`). With a temperature,
the continuations are sampled without replacement (Kool et al. 2019) from the tokens that `top_k` and `top_p`
keep.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from trice.models.batch_decoder import BatchDecoder
from trice.models.batching import EncodedPrompt, admit, compact_order
from trice.models.call_blocker import TokenBlocker
from trice.models.detokenizer import tail
from trice.models.engine import Finish, Generated, truncate_ids
from trice.models.local import LocalModel
from trice.models.sampling import Sampling
from trice.models.token_sampling import (
    log_sum_exp,
    nucleus,
    penalise_repetition,
    suppress_tokens,
    top_tokens,
)

TAIL = 80  # characters at the end of a beam that decide on suppressed tokens; no tool's name is longer
EXCLUDED = -1e9  # the score of a placeholder beam


class _Candidate(NamedTuple):
    """A continuation of the beam in `row` by one token, with the score of the whole beam."""

    score: float
    row: int
    token: int


@dataclass
class _Beam:
    ids: list[int]
    score: float


@dataclass
class _Search:
    """The beams of one prompt. Before the first token all beams are equal, and only one counts."""

    number: int
    prompt: EncodedPrompt
    random: random.Random
    running: list[_Beam]
    finished: list[_Beam] = field(default_factory=list)  # the best first; the score is divided by the length


class BeamSearch:
    """A search over prompts that begin with the decoder's shared prefix, within `batch_attention`. `finish` truncates
    texts as in other decoding, but does not steer the search."""

    def __init__(
        self,
        loaded: LocalModel,
        decoder: BatchDecoder,
        sampling: Sampling,
        finish: Finish,
        suppress: TokenBlocker | None,
    ) -> None:
        self.loaded, self.decoder, self.sampling, self.finish = loaded, decoder, sampling, finish
        self.suppress, self.end_ids, self.width = suppress, loaded.eos_ids, sampling.beams
        self.candidates = max(2, 1 + len(self.end_ids)) * self.width  # continuations considered per prompt

    def run(
        self, prompts: Sequence[EncodedPrompt], order: Sequence[int], size: int
    ) -> Iterator[tuple[int, dict[int, Generated]]]:
        """Yield the best beams of each prompt as it finishes, with at most `size` rows at a time."""
        waiting, searches = list(reversed(order)), list[_Search]()
        width, past = self.width, self.decoder.shared.length
        while waiting or searches:
            states = []
            if searches:
                last = [beam.ids[-1] for search in searches for beam in search.running]
                states.append(self.decoder.step(last))
            entering = admit(waiting, [width] * len(prompts), size, len(searches) * width)
            if entering:
                ids = [list(prompts[number].ids[past:]) for number in entering]
                states.append(self.decoder.append(ids, [width] * len(entering)))
                searches += [self._search(number, prompts[number]) for number in entering]
            parents = self._advance(searches, self.decoder.logits(torch.cat(states)))
            self.decoder.reorder(parents, min(len(search.prompt.ids) for search in searches) - past)
            finished = [self._is_finished(search) for search in searches]
            for search, done in zip(searches, finished, strict=True):
                if done:
                    yield search.number, self._samples(search)
            stay = compact_order([not done for done in finished])
            self.decoder.reorder([index * width + beam for index in stay for beam in range(width)])
            searches = [searches[index] for index in stay]

    def _search(self, number: int, prompt: EncodedPrompt) -> _Search:
        beams = [_Beam([], 0.0 if beam == 0 else EXCLUDED) for beam in range(self.width)]
        return _Search(number, prompt, random.Random(f"{self.sampling.seed} {prompt.key}"), beams)

    def _advance(self, searches: Sequence[_Search], logits_VB: torch.Tensor) -> list[int]:
        """Extend every search by one token. Returns, for each row, the row that it continues."""
        totals_B = log_sum_exp(logits_VB)
        histories = ([*search.prompt.ids, *beam.ids] for search in searches for beam in search.running)
        penalise_repetition(logits_VB, histories, self.sampling.repetition_penalty, totals_B)
        if self.suppress:
            beams = (beam for search in searches for beam in search.running)
            texts = (tail(self.loaded.tokenizer, beam.ids, TAIL) for beam in beams)
            suppress_tokens(logits_VB, map(self.suppress, texts))
        scores_Bk, tokens_Bk = self._continuations(logits_VB, totals_B)
        scores, tokens = scores_Bk.tolist(), tokens_Bk.tolist()
        parents: list[int] = []
        for index, search in enumerate(searches):
            first = index * self.width
            candidates = [
                _Candidate(beam.score + score, row, token)
                for row, beam in enumerate(search.running, start=first)
                for score, token in zip(scores[row], tokens[row], strict=True)
                if score > -math.inf
            ]
            parents += self._extend(search, self._best(candidates, search.random), first)
        return parents

    def _continuations(
        self, logits_VB: torch.Tensor, totals_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of the tokens that may continue each beam, and the tokens, both [B, k]."""
        if self.sampling.greedy:
            values_Bk, tokens_Bk = top_tokens(logits_VB, self.candidates)
            return values_Bk - totals_B.unsqueeze(1), tokens_Bk
        weights_Bk, tokens_Bk = nucleus(logits_VB, self.sampling)
        logits_Bk = logits_VB.T.gather(1, tokens_Bk).float() - totals_B.unsqueeze(1)
        return (logits_Bk / self.sampling.temperature).masked_fill(weights_Bk == 0, -math.inf), tokens_Bk

    def _best(self, candidates: list[_Candidate], generator: random.Random) -> list[_Candidate]:
        """The candidates to consider: the best ones, or a sample, which is the best ones after Gumbel noise."""
        if self.sampling.greedy:
            return sorted(candidates, key=lambda each: -each.score)[: self.candidates]
        noisy = [
            (each.score - math.log(-math.log(generator.random() or 1e-300)), each) for each in candidates
        ]
        return [each for _, each in sorted(noisy, key=lambda pair: -pair[0])[: self.candidates]]

    def _extend(self, search: _Search, best: Sequence[_Candidate], first: int) -> list[int]:
        """Finish the beams that end and continue the best others. Returns the rows that these continue."""
        length = len(search.running[0].ids) + 1
        at_limit = length >= self._max_tokens(search)
        before = {row: beam.ids for row, beam in enumerate(search.running, start=first)}
        running: list[tuple[_Beam, int]] = []
        for rank, (score, row, token) in enumerate(best):
            beam = _Beam([*before[row], token], score)
            if token in self.end_ids or at_limit:
                if rank < self.width:
                    search.finished.append(_Beam(beam.ids, score / length))
            else:
                running.append((beam, row))
        search.finished = sorted(search.finished, key=lambda beam: -beam.score)[: self.width]
        running = sorted(running, key=lambda pair: -pair[0].score)[: self.width]
        placeholder = _Beam([*before[first], best[0].token], EXCLUDED)
        running += [(placeholder, first)] * (self.width - len(running))
        search.running = [beam for beam, _ in running]
        return [row for _, row in running]

    def _max_tokens(self, search: _Search) -> int:
        return min(self.sampling.max_new_tokens, self.loaded.context - len(search.prompt.ids))

    def _is_finished(self, search: _Search) -> bool:
        length = len(search.running[0].ids)
        if length >= self._max_tokens(search):
            return True
        if len(search.finished) < self.width:
            return False
        return search.running[0].score / length <= search.finished[-1].score

    def _samples(self, search: _Search) -> dict[int, Generated]:
        """The wanted samples, the best first."""
        found = {}
        for sample, beam in enumerate(search.finished):
            if sample in search.prompt.samples:
                ids = [token for token in beam.ids if token not in self.end_ids]
                at_limit = len(ids) == len(beam.ids)  # it has no end token
                found[sample] = truncate_ids(self.loaded.tokenizer, ids, self.finish, truncated=at_limit)
        return found
