"""One decoding step for a batch of rows, each a token sequence of its own length.

Keys and values are in a cache that rows enter and leave (`trice.models.kv_cache`). The prefix that all prompts
share is computed once (`trice.models.batch_attention`). A row that left with a copy of its keys and values can return
with more tokens, and only those are computed. Prompts are left-padded while they are computed; decoding uses no
padding. The output head is applied to the last states only, as weight times states, which on a CPU is up to twice as
fast as states times weight. This module does not choose tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy

import torch
import torch.nn.functional as F
from transformers import Cache

from trice.models.attention_masks import layer_masks
from trice.models.batch_attention import SharedPrefix
from trice.models.kv_cache import CachedRow, PrefillCache, RowCache
from trice.models.local import LocalModel
from trice.models.token_sampling import BLOCK

TILE = 16384  # vocabulary entries per product of the output head, so that the result stays in the CPU's cache
MAX_PREFILL = 2048  # prompt tokens in one pass, which bounds the memory


class BatchDecoder:
    """Runs one model over rows, within `batch_attention`. All prompts begin with `prefix`. With `use_model_head`,
    logits come from the model's forward method instead of the weights of its output head."""

    def __init__(self, loaded: LocalModel, prefix: Sequence[int] = (), use_model_head: bool = False) -> None:
        self.model, self.device = loaded.model, loaded.device
        self.head = self.model.get_output_embeddings()
        self.softcap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        self.use_model_head = use_model_head
        self.clear()
        self.shared = SharedPrefix([], 0)
        if prefix:
            _, prefill = self._prefill([list(prefix)])
            layers = [(keys[0], values[0]) for _, (keys, values) in sorted(prefill.entries.items())]
            self.shared = SharedPrefix(layers, len(prefix))

    def __len__(self) -> int:
        return len(self.cache.lengths)

    def empty_copy(self) -> BatchDecoder:
        """A decoder with the same shared prefix and no rows."""
        other = copy(self)
        other.clear()
        return other

    def clear(self) -> None:
        """Drop all rows and free their memory."""
        self.cache, self._logits_buffer = RowCache(), torch.empty(0)

    def append(self, prompts: Sequence[Sequence[int]], copies: Sequence[int]) -> torch.Tensor:
        """Add each prompt, without the shared prefix, as so many rows. Returns the last states of these rows."""
        states, first = [], 0
        for end in _pass_ends([len(prompt) for prompt in prompts]):
            state, prefill = self._prefill(prompts[first:end])
            self.cache.append(prefill, [len(prompt) for prompt in prompts[first:end]], copies[first:end])
            states.append(state)
            first = end
        times = torch.tensor(list(copies), device=self.device)
        return torch.cat(states).repeat_interleave(times, 0)

    def _prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, PrefillCache]:
        width, past, device = max(map(len, prompts)), self.shared.length, self.device
        pad_B1 = torch.tensor([[width - len(prompt)] for prompt in prompts], device=device)
        tokens_BQ = torch.tensor([[0] * (width - len(row)) + list(row) for row in prompts], device=device)
        steps_Q = torch.arange(width, device=device)
        positions_BQ = (steps_Q - pad_B1).clamp(min=0) + past
        earlier_QQ = steps_Q.unsqueeze(1) >= steps_Q
        # A padding token attends to itself and to the prefix, since a softmax over no key is not a number.
        itself_QQ = torch.eye(width, device=device).bool()
        row_BQQ = (earlier_QQ & (steps_Q >= pad_B1).unsqueeze(1)) | itself_QQ
        allowed_BQK = F.pad(row_BQQ, (past, 0), value=True)
        prefix_BP = torch.arange(past, device=device).expand(len(prompts), -1)
        prefill = PrefillCache()
        keys_BK = torch.cat([prefix_BP, positions_BQ], 1)
        return self._run(tokens_BQ, positions_BQ, allowed_BQK, keys_BK, prefill), prefill

    def append_cached(self, rows: Sequence[CachedRow], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Add rows that left before, each followed by tokens. Returns their last states."""
        states, first = [], 0
        for end in _pass_ends([len(each) for each in tokens]):
            self.cache.append_cached(rows[first:end])
            states.append(self._extend(tokens[first:end]))
            first = end
        return torch.cat(states)

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Append one token to every row. Returns the states after it."""
        return self._extend([[token] for token in tokens])

    def _extend(self, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Append tokens to the last rows. Returns the states after them."""
        cache, past, width = self.cache, self.shared.length, max(map(len, tokens))
        lengths = cache.lengths[-len(tokens) :]
        # Left padding is written to the position after the row's last token, which no token of the row attends to
        # before the next token overwrites it.
        positions = [
            [length + len(row)] * (width - len(row)) + list(range(length, length + len(row)))
            for length, row in zip(lengths, tokens, strict=True)
        ]
        cache.start_update(positions)
        keys_K = torch.arange(past + cache.width, device=self.device)
        positions_BQ = cache.positions_BQ + past
        padded = [[0] * (width - len(row)) + list(row) for row in tokens]
        tokens_BQ = torch.tensor(padded, device=self.device)
        allowed_BQK = keys_K <= positions_BQ.unsqueeze(2)
        states = self._run(tokens_BQ, positions_BQ, allowed_BQK, keys_K.expand(len(tokens), -1), cache)
        cache.lengths[-len(tokens) :] = [
            length + len(row) for length, row in zip(lengths, tokens, strict=True)
        ]
        return states

    def reorder(self, order: Sequence[int], start: int = 0) -> None:
        """Row i becomes what row `order[i]` was, from position `start` after the prefix on. Rows beyond are
        dropped."""
        self.cache.reorder(order, start)

    def _run(
        self,
        tokens_BQ: torch.Tensor,
        positions_BQ: torch.Tensor,
        allowed_BQK: torch.Tensor,
        keys_BK: torch.Tensor,
        cache: Cache,
    ) -> torch.Tensor:
        """One forward pass: the last states [B, D], or with the model's head the logits [B, V]."""
        mask = layer_masks(self.model.config, allowed_BQK, positions_BQ, keys_BK, itself=False)
        inputs = {
            "input_ids": tokens_BQ,
            "position_ids": positions_BQ,
            "attention_mask": mask,
            "past_key_values": cache,
            "use_cache": True,
            "shared": self.shared,
        }
        if self.use_model_head:
            last = torch.tensor([-1], device=self.device)
            output: torch.Tensor = self.model(**inputs, logits_to_keep=last).logits[:, -1]
        else:
            output = getattr(self.model, self.model.base_model_prefix)(**inputs)[0][:, -1]
        return output

    def logits(self, states_BD: torch.Tensor) -> torch.Tensor:
        """Logits [V, B] of states, valid until the next call. V is rounded up to whole blocks; the entries beyond
        the vocabulary are -inf."""
        if self.use_model_head:
            logits_VB = states_BD.T
            return F.pad(logits_VB, (0, 0, 0, -len(logits_VB) % BLOCK), value=-torch.inf).contiguous()
        weight_VD, vocabulary = self.head.weight, len(self.head.weight)
        states_DB = states_BD.to(weight_VD.dtype).T.contiguous()
        logits_VB = self._logits(vocabulary + -vocabulary % BLOCK, len(states_BD))
        logits_VB[vocabulary:] = -torch.inf
        for start in range(0, vocabulary, TILE):
            part = logits_VB[start : min(start + TILE, vocabulary)]
            torch.mm(weight_VD[start : start + TILE], states_DB, out=part)
            if self.head.bias is not None:
                part += self.head.bias[start : start + TILE].unsqueeze(1)
            if self.softcap is not None:
                part.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits_VB

    def _logits(self, size: int, rows: int) -> torch.Tensor:
        """Memory for logits, reused in every step: clearing fresh pages takes as long as the product."""
        if self._logits_buffer.numel() < size * rows:
            self._logits_buffer = torch.empty(size * rows, dtype=self.head.weight.dtype, device=self.device)
        return self._logits_buffer[: size * rows].view(size, rows)


def _pass_ends(lengths: Sequence[int]) -> Iterator[int]:
    """Where prompts are divided into passes of at most MAX_PREFILL tokens, padding included."""
    widest = count = 0
    for number, length in enumerate(lengths):
        widest, count = max(widest, length), count + 1
        if count > 1 and widest * count > MAX_PREFILL:
            yield number
            widest, count = length, 1
    yield len(lengths)
