"""Batched generation: prompts as token ids in, texts out, batch by batch so that a caller can keep each one.

The tokens every prompt starts with (instruction, few-shot examples) are computed once; the samples of a
question come from one prefill; rows that have ended leave the batch. Batches are planned over all prompts
and each has a random generator of its own, so a batch gives the same texts whether or not those before it
were run in the same process. Beam search is `trice.models.beams`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from trice.models.beams import beam_search
from trice.models.engine import Done, Failure, Manner, Prompt, Written
from trice.models.local import LocalModel
from trice.models.masks import layer_masks
from trice.sampling import Sampling

MIN_SHARED_PREFIX = 8  # tokens below which a shared prefix is not worth its own forward pass
COMPACT_BELOW = 0.75  # share of rows still running below which the finished ones are dropped from the cache


class TransformersEngine:
    """A model of transformers on this machine; `batch_size` counts rows, that is prompts × samples or beams."""

    def __init__(self, loaded: LocalModel, batch_size: int = 64) -> None:
        self.loaded, self.batch_size = loaded, batch_size

    def write(self, prompts: Sequence[Prompt], manner: Manner, done: Done) -> list[Failure]:
        """Answer every prompt; none fails."""
        template, tokenizer = manner.template, self.loaded.tokenizer
        start = template.encode_response(tokenizer, manner.opening, end=False) if manner.opening else []
        encoded = [
            template.encode(tokenizer, prompt.instruction, prompt.input, manner.examples) + start
            for prompt in prompts
        ]
        batches = generate(
            self.loaded, encoded, manner.sampling, manner.finish,
            batch_size=self.batch_size, suppress=_first_tokens(self.loaded, manner.silent),
        )  # fmt: skip
        for _, indices, texts in batches:
            for index, found in zip(indices, texts, strict=True):
                done(index, {sample: Written(found[sample]) for sample in prompts[index].samples})
        return []


def _first_tokens(model: LocalModel, tools: Sequence[str]) -> list[int]:
    """The tokens a call can begin with, however it is cut into tokens, which a model that must not call may
    not choose: those that hold a tool's name and parenthesis, or end in a beginning of the name."""
    if not tools:
        return []
    names = "|".join(map(re.escape, tools))
    beginnings = "|".join(re.escape(name[:end]) for name in tools for end in range(1, len(name) + 1))
    opening = re.compile(rf"(?<![A-Za-z0-9_])(?:(?:{beginnings})$|(?:{names})\()")
    texts = model.tokenizer.batch_decode([[token] for token in range(len(model.tokenizer))])
    return [token for token, text in enumerate(texts) if opening.search(text)]


Finish = Callable[[str], str | None]
"""Given the text so far, the finished response, or None while it must go on."""


def plan(prompts: Sequence[Sequence[int]], batch_size: int) -> list[list[int]]:
    """Indices of prompts in batches of similar length, the longest first (so that memory fails early)."""
    order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, leaving at least one token of each for itself."""
    if len(prompts) < 2:
        return 0
    first, last = min(map(list, prompts)), max(map(list, prompts))
    limit = min(len(prompt) for prompt in prompts) - 1
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), limit)
    length = min(length, limit)
    return length if length >= MIN_SHARED_PREFIX else 0


@torch.inference_mode()
def generate(
    loaded: LocalModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    finish: Finish = lambda text: None,
    *,
    batch_size: int = 64,
    suppress: Sequence[int] = (),
    skip: Callable[[int], bool] = lambda batch: False,
) -> Iterator[tuple[int, list[int], list[list[str]]]]:
    """Yield (batch number, prompt indices, texts per prompt) for each batch that `skip` does not skip.

    `batch_size` counts rows, that is prompts × samples or beams. `suppress` are token ids that are never chosen.
    A response ends at the model's end token, where `finish` says so, or after `max_new_tokens`.
    """
    batches = plan(prompts, max(1, batch_size // max(sampling.samples, sampling.beams)))
    shared = shared_prefix(prompts)
    prefix: Any = None
    for number, indices in enumerate(batches):
        if skip(number):
            continue
        if shared and prefix is None and sampling.beams == 1:
            prefix = _prefill(loaded, [list(prompts[0][:shared])], None)[1]
        if sampling.beams > 1:
            batch = [prompts[index] for index in indices]
            yield number, indices, beam_search(loaded, batch, sampling, finish, suppress)
            continue
        rows = [list(prompts[index][shared:]) for index in indices]
        generator = torch.Generator(loaded.device).manual_seed(sampling.seed * 1_000_003 + number)
        texts = _Decoder(loaded, sampling, finish, suppress, generator).run(rows, prefix)
        grouped = [texts[i : i + sampling.samples] for i in range(0, len(texts), sampling.samples)]
        yield number, indices, grouped


def complete(
    loaded: LocalModel, prompts: Sequence[Sequence[int]], sampling: Sampling, finish: Finish
) -> list[str]:
    """One text for each prompt, in the prompts' order, without anything kept of a batch."""
    texts = [""] * len(prompts)
    for _, indices, found in generate(loaded, prompts, sampling, finish):
        for index, (text,) in zip(indices, found, strict=True):
            texts[index] = text
    return texts


def top_logits(logits_BV: torch.Tensor, k: int, block: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest logits of each row and their tokens, both [B, k], the largest first.

    The k largest lie in the k blocks with the largest maxima, so only those are sorted: on a vocabulary of
    262k a plain topk costs more than the model's own step.
    """
    vocabulary = logits_BV.shape[-1]
    k = min(k, vocabulary)
    if vocabulary % block or vocabulary <= k * block:
        values, tokens = logits_BV.topk(k)
        return values, tokens
    blocks_BNW = logits_BV.reshape(-1, vocabulary // block, block)
    best_Bk = blocks_BNW.amax(-1).topk(k).indices
    inside = blocks_BNW.gather(1, best_Bk.unsqueeze(-1).expand(-1, -1, block)).flatten(1)
    values, places = inside.topk(k)
    return values, best_Bk.gather(1, places // block) * block + places % block


@dataclass
class _State:
    """What the next step attends to: cached positions and whether each may be seen, both [B, K]."""

    positions_BK: torch.Tensor
    seen_BK: torch.Tensor

    def select(self, rows: torch.Tensor) -> _State:
        return _State(self.positions_BK[rows], self.seen_BK[rows])


def _prefill(
    loaded: LocalModel, rows: list[list[int]], prefix: Any
) -> tuple[torch.Tensor, tuple[Any, _State]]:
    """Run prompts, padded left, on top of a shared prefix; returns the last logits [B, V] and the cache."""
    width = max(len(row) for row in rows)
    pad = [width - len(row) for row in rows]
    device, batch = loaded.device, len(rows)
    tokens_BQ = torch.tensor([[0] * p + row for p, row in zip(pad, rows, strict=True)], device=device)
    pad_B1 = torch.tensor(pad, device=device).unsqueeze(1)
    steps_Q = torch.arange(width, device=device)
    real_BQ = steps_Q >= pad_B1
    positions_BQ = (steps_Q - pad_B1).clamp(min=0)
    allowed_BQK = real_BQ.unsqueeze(1) & (steps_Q.unsqueeze(1) >= steps_Q)
    cache, state = DynamicCache(), _State(positions_BQ, real_BQ)
    if prefix is not None:
        cache, before = _repeat(prefix, batch)
        positions_BQ = positions_BQ + before.positions_BK.shape[1]
        seen_BQP = before.seen_BK.unsqueeze(1).expand(-1, width, -1)
        allowed_BQK = torch.cat([seen_BQP, allowed_BQK], dim=2)
        state = _State(
            torch.cat([before.positions_BK, positions_BQ], 1), torch.cat([before.seen_BK, real_BQ], 1)
        )
    logits_BV = _forward(loaded, tokens_BQ, positions_BQ, allowed_BQK, state.positions_BK, cache)
    return logits_BV, (cache, state)


def _repeat(prefix: tuple[Any, _State], batch: int) -> tuple[Any, _State]:
    """A copy of a one-row cache for `batch` rows."""
    cache, state = copy.deepcopy(prefix[0]), prefix[1]
    cache.batch_repeat_interleave(batch)
    return cache, _State(state.positions_BK.expand(batch, -1), state.seen_BK.expand(batch, -1))


def _forward(
    loaded: LocalModel,
    tokens_BQ: torch.Tensor,
    positions_BQ: torch.Tensor,
    allowed_BQK: torch.Tensor,
    key_positions_BK: torch.Tensor,
    cache: Any,
) -> torch.Tensor:
    """One pass; only the last position goes through the output head. Returns [B, V] in float32."""
    output = loaded.model(
        input_ids=tokens_BQ,
        position_ids=positions_BQ,
        attention_mask=layer_masks(loaded.model.config, allowed_BQK, positions_BQ, key_positions_BK),
        past_key_values=cache,
        use_cache=True,
        # An index, not a count: the slice of a count is not contiguous, and in bfloat16 a CPU's matrix product
        # then copies the output head once for every row.
        logits_to_keep=torch.tensor([-1], device=loaded.device),
    )
    logits: torch.Tensor = output.logits[:, -1].float()
    return logits


class _Decoder:
    """The decoding of one batch."""

    def __init__(
        self,
        loaded: LocalModel,
        sampling: Sampling,
        finish: Finish,
        suppress: Sequence[int],
        generator: torch.Generator,
    ) -> None:
        self.loaded, self.sampling, self.finish = loaded, sampling, finish
        self.suppress, self.generator = list(suppress), generator

    def run(self, rows: list[list[int]], prefix: Any) -> list[str]:
        """The texts of all rows, `samples` for each, in order."""
        logits_BV, (cache, state) = _prefill(self.loaded, rows, prefix)
        samples = self.sampling.samples
        if samples > 1:
            cache.batch_repeat_interleave(samples)
            logits_BV = logits_BV.repeat_interleave(samples, 0)
            repeated = torch.arange(len(rows), device=logits_BV.device).repeat_interleave(samples)
            state = state.select(repeated)
        self.written: list[list[int]] = [[] for _ in range(len(rows) * samples)]
        self.texts: list[str | None] = [None] * len(self.written)
        live = list(range(len(self.written)))  # row of the batch → response
        for left in reversed(range(self.sampling.max_new_tokens)):
            chosen_B = self._choose(logits_BV)
            self._write(live, chosen_B.tolist())
            running = [row for row, response in enumerate(live) if self.texts[response] is None]
            if not running or not left:
                break
            if len(running) < COMPACT_BELOW * len(live):
                keep = torch.tensor(running, device=chosen_B.device)
                cache.batch_select_indices(keep)
                state, chosen_B = state.select(keep), chosen_B[keep]
                live = [live[row] for row in running]
            logits_BV, state = self._step(chosen_B, cache, state)
        return [
            self._decode(ids) if text is None else text
            for text, ids in zip(self.texts, self.written, strict=True)
        ]

    def _step(self, chosen_B: torch.Tensor, cache: Any, state: _State) -> tuple[torch.Tensor, _State]:
        next_B1 = state.positions_BK[:, -1:] + 1
        state = _State(
            torch.cat([state.positions_BK, next_B1], 1),
            torch.cat([state.seen_BK, torch.ones_like(next_B1, dtype=torch.bool)], 1),
        )
        allowed_BQK = state.seen_BK.unsqueeze(1)
        logits_BV = _forward(
            self.loaded, chosen_B.unsqueeze(1), next_B1, allowed_BQK, state.positions_BK, cache
        )
        return logits_BV, state

    def _choose(self, logits_BV: torch.Tensor) -> torch.Tensor:
        """The next token of each row, [B]."""
        if self.suppress:
            logits_BV[:, self.suppress] = -torch.inf
        if self.sampling.temperature == 0:
            return logits_BV.argmax(-1)
        logits_BV = logits_BV / self.sampling.temperature
        tokens_BV = None
        if self.sampling.top_k or self.sampling.top_p < 1:
            logits_BV, tokens_BV = top_logits(logits_BV, self.sampling.top_k or logits_BV.shape[-1])
        weights_BV = logits_BV.softmax(-1)
        if self.sampling.top_p < 1:
            # Sorted by topk: drop what comes after the mass top_p is reached, never the first.
            weights_BV = weights_BV.masked_fill(weights_BV.cumsum(-1) - weights_BV >= self.sampling.top_p, 0)
        drawn_B1 = torch.multinomial(weights_BV, 1, generator=self.generator)
        return (drawn_B1 if tokens_BV is None else tokens_BV.gather(-1, drawn_B1)).squeeze(-1)

    def _write(self, live: list[int], chosen: list[int]) -> None:
        """Append the chosen tokens, and settle the responses that they end."""
        for response, token in zip(live, chosen, strict=True):
            if self.texts[response] is not None:
                continue
            if token in self.loaded.eos_ids:
                self.texts[response] = self._decode(self.written[response])
                continue
            self.written[response].append(token)
            self.texts[response] = self.finish(self._decode(self.written[response]))

    def _decode(self, ids: list[int]) -> str:
        text: str = self.loaded.tokenizer.decode(ids, skip_special_tokens=True)
        return text
