"""Continuous batching: responses with different settings are generated together, and prompts enter at any time.

Covers greedy decoding and sampling. Beam search is in `trice.models.beams`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from trice.models.batch_decoder import BatchDecoder
from trice.models.batching import EncodedPrompt, compact_order
from trice.models.call_blocker import TokenBlocker
from trice.models.call_signals import batch_signals
from trice.models.detokenizer import Detokenizer
from trice.models.engine import Finish, Generated, tokens_needed
from trice.models.kv_cache import CachedRow
from trice.models.local import LocalModel
from trice.models.sampling import Sampling
from trice.models.token_sampling import (
    greedy_tokens,
    penalise_repetition,
    sample_tokens,
    suppress_tokens,
)


class DecodingSettings(NamedTuple):
    """How tokens are chosen. `finish` decides when a response is finished, `suppress` which tokens may not
    follow."""

    sampling: Sampling
    finish: Finish = lambda text, checked: None
    suppress: TokenBlocker | None = None

    def same_choice(self, other: DecodingSettings) -> bool:
        """Whether both choose the same token from the same logits and random number."""
        names = ("temperature", "top_k", "top_p", "repetition_penalty")
        return all(getattr(self.sampling, name) == getattr(other.sampling, name) for name in names)


@dataclass
class BatchRow:
    """A response in the batch. `owner` is what its prompt was added under. `text` is set when the response is
    finished. `end` is the end token, None if something else finished it; `at_length_limit` is true if it was its
    length. `cache` holds the keys and values of the prompt and the ids, if `step` was asked to keep them."""

    owner: Any
    sample: int
    prompt: Sequence[int]
    settings: DecodingSettings
    random: random.Random
    detokenizer: Detokenizer
    text: str | None = None
    end: int | None = None
    at_length_limit: bool = False
    cache: CachedRow | None = None

    @property
    def ids(self) -> list[int]:
        """The generated ids, without the end token."""
        return self.detokenizer.ids

    @property
    def partial_text(self) -> str:
        """The text of the ids."""
        return self.detokenizer.text

    @property
    def generated(self) -> Generated:
        """The finished response."""
        return Generated(self.text or "", self.ids, self.at_length_limit)


class _Entering(NamedTuple):
    """A prompt that the next step adds."""

    owner: Any
    prompt: EncodedPrompt
    settings: DecodingSettings
    cache: CachedRow | None


class ContinuousBatch:
    """Responses to prompts that begin with the decoder's shared prefix. Must be used within `batch_attention`,
    by one thread."""

    def __init__(self, loaded: LocalModel, decoder: BatchDecoder) -> None:
        self.loaded, self.decoder, self.end_ids = loaded, decoder, loaded.eos_ids
        self.context = loaded.context
        self._rows: list[BatchRow] = []
        self._entering: list[_Entering] = []

    def __len__(self) -> int:
        """The number of rows, including those that the next step adds."""
        return len(self._rows) + sum(len(each.prompt.samples) for each in self._entering)

    @property
    def owners(self) -> list[Any]:
        """The owners of all rows, including those that the next step adds."""
        return [row.owner for row in self._rows] + [each.owner for each in self._entering]

    def add(
        self,
        owner: Any,
        prompt: EncodedPrompt,
        settings: DecodingSettings,
        cache: CachedRow | None = None,
    ) -> None:
        """Add a prompt, which the next step begins to answer. A prompt with one sample may come with the `cache` of a
        finished row with which it begins; the tokens after it are computed."""
        self._entering.append(_Entering(owner, prompt, settings, cache))

    @torch.inference_mode()
    def remove(self, is_removed: Callable[[Any], bool]) -> None:
        """Drop the rows of all owners for which `is_removed` is true."""
        self._entering = [each for each in self._entering if not is_removed(each.owner)]
        stays = [not is_removed(row.owner) for row in self._rows]
        if not all(stays):
            self._compact(stays)

    @torch.inference_mode()
    def step(self, keep: int = 0) -> list[BatchRow]:
        """Generate one token for every row. Returns all rows; finished rows are returned for the last time. Of the
        rows that an end token finished, up to `keep` are returned with their `cache`."""
        states = [self.decoder.step([row.ids[-1] for row in self._rows])] if self._rows else []
        states += self._enter()
        if not states:
            return []
        self._choose_tokens(self.decoder.logits(torch.cat(states)))
        stepped = self._rows
        ended = [index for index, row in enumerate(stepped) if row.end is not None]
        for index in ended[:keep]:
            stepped[index].cache = self.decoder.cache.row(index)
        self._compact([row.text is None for row in stepped])
        return stepped

    def _enter(self) -> Iterator[torch.Tensor]:
        """Add the rows of the entering prompts. Yields the last states of the prompts."""
        new = [each for each in self._entering if each.cache is None]
        if new:
            prompts = [self._after_prefix(each.prompt.ids) for each in new]
            yield self.decoder.append(prompts, [len(each.prompt.samples) for each in new])
        returning = [(each, each.cache) for each in self._entering if each.cache is not None]
        if returning:
            tokens = [self._after_prefix(each.prompt.ids)[cache.length :] for each, cache in returning]
            yield self.decoder.append_cached([cache for _, cache in returning], tokens)
        for owner, prompt, settings, _ in (*new, *(each for each, _ in returning)):
            self._rows += [self._row(owner, prompt, settings, sample) for sample in prompt.samples]
        self._entering = []

    @torch.inference_mode()
    def signals(
        self, prompt: Sequence[int], openings: Sequence[Sequence[int]], layers: Sequence[int] = ()
    ) -> tuple[list[float], list[list[float]]]:
        """The probability of each opening after the prompt, and the states of the prompt's last token after `layers`
        (`trice.models.call_signals`)."""
        (found,), (states,) = batch_signals(self.decoder, [self._after_prefix(prompt)], openings, layers)
        return found, states

    def _row(self, owner: Any, prompt: EncodedPrompt, settings: DecodingSettings, sample: int) -> BatchRow:
        # A text seed is hashed alike by every version of Python.
        generator = random.Random(f"{settings.sampling.seed} {prompt.key} {sample}")
        return BatchRow(owner, sample, prompt.ids, settings, generator, Detokenizer(self.loaded.tokenizer))

    def _after_prefix(self, ids: Sequence[int]) -> list[int]:
        return list(ids[self.decoder.shared.length :])

    def _compact(self, stays: Sequence[bool]) -> None:
        order = compact_order(stays)
        self.decoder.reorder(order)
        self._rows = [self._rows[row] for row in order]

    def _choose_tokens(self, logits_VB: torch.Tensor) -> None:
        """Choose the next token of each row, and finish the rows that it ends."""
        for indices in self._by_settings():
            rows = [self._rows[index] for index in indices]
            part_VB = logits_VB if len(rows) == len(self._rows) else logits_VB[:, indices]
            for row, token in zip(rows, _next_tokens(rows, part_VB), strict=True):
                self._add_token(row, token)

    def _by_settings(self) -> list[list[int]]:
        """The indices of the rows, grouped by how their tokens are chosen."""
        groups: list[list[int]] = []
        for index, row in enumerate(self._rows):
            for group in groups:
                first = self._rows[group[0]].settings
                if row.settings is first or row.settings.same_choice(first):
                    group.append(index)
                    break
            else:
                groups.append([index])
        return groups

    def _add_token(self, row: BatchRow, token: int) -> None:
        if token in self.end_ids:
            row.text, row.end = row.partial_text, token
            return
        text = row.detokenizer.add(token)
        row.text = row.settings.finish(text, row.detokenizer.unchanged)
        if row.text is not None:
            del row.ids[tokens_needed(self.loaded.tokenizer, row.ids, row.text) :]
        elif len(row.ids) >= min(row.settings.sampling.max_new_tokens, self.context - len(row.prompt)):
            row.text, row.at_length_limit = row.partial_text, True


def _next_tokens(rows: Sequence[BatchRow], logits_VB: torch.Tensor) -> list[int]:
    """The next token of each row."""
    sampling = rows[0].settings.sampling
    penalise_repetition(logits_VB, ([*row.prompt, *row.ids] for row in rows), sampling.repetition_penalty)
    suppress_tokens(
        logits_VB, (row.settings.suppress(row.partial_text) if row.settings.suppress else () for row in rows)
    )
    if sampling.greedy:
        tokens_B = greedy_tokens(logits_VB)
    else:
        tokens_B = sample_tokens(logits_VB, sampling, [row.random.random() for row in rows])
    tokens: list[int] = tokens_B.tolist()
    return tokens
