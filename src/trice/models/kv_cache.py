"""Rows of text under way together, each a sequence of its own: one pass a step, whatever their lengths.

Keys and values lie in buffers that rows join and leave; what all prompts begin with is kept once and read by all
rows at once. Prompts are padded on the left while they are run, rows stand without padding. The output head is
applied to the last states alone, as weight times states: on a CPU that is up to twice as fast as the other way
round. Models whose layers do not attend through transformers' attention interface are not covered, and found out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface, Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from trice.errors import TriceError
from trice.models.attention_masks import layer_masks
from trice.models.local import LocalModel
from trice.models.rounding import TIMES, rounding

NAME = "trice_rows"
TILE = 16384  # vocabulary entries of the head at a time: its product then stays in the processor's cache
BLOCK = 256  # entries of the vocabulary that share a maximum (`trice.models.token_sampling`)
PREFILL = 2048  # prompt tokens in one pass, which bounds the memory
ROOM = 64  # positions that are added where rows outgrow their buffers
PROBE = 24  # tokens on which a model is compared with itself
STEPS = 4  # of them that are run one by one
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}  # of logits, relative
HALF_TOLERANCE = 0.1  # in half precision, unless the model's rounding makes more of it
HEAD_TOLERANCE = 0.03  # of the output head by itself, which amplifies nothing

KeysValues = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Shared:
    """What all rows begin with: keys and values [G, P, D] of each layer."""

    layers: list[KeysValues]
    length: int


def rows_attention(
    module: torch.nn.Module,
    query_BHQD: torch.Tensor,
    key_BGKD: torch.Tensor,
    value_BGKD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    shared: Shared | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of B rows, [B, Q, H, D], to `shared` and then to their own keys; `attention_mask` is
    [B, 1, Q, P + K]. The H / G query heads of a group stand under one another, so that no key is repeated."""
    if shared is None:
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query_BHQD, key_BGKD, value_BGKD, attention_mask, dropout, scaling, **kwargs
        )
        return result
    assert attention_mask is not None
    batch, heads, queries, width = query_BHQD.shape
    groups = key_BGKD.shape[1]
    query_BGXD = query_BHQD.reshape(batch, groups, -1, width)
    mask = attention_mask.repeat(1, 1, heads // groups, 1)
    scale = width**-0.5 if scaling is None else scaling
    before = shared.layers[module.layer_idx] if shared.length else None  # type: ignore[index]
    if queries > 1 and before is not None:  # of a prompt: copies cost less than its scores would
        keys_values = ((key_BGKD, before[0]), (value_BGKD, before[1]))
        key_BGKD, value_BGKD = (torch.cat([of.expand(batch, -1, -1, -1), own], 2) for own, of in keys_values)
        before = None
    if softcap is None and (queries > 1 or before is None):
        output = F.scaled_dot_product_attention(query_BGXD, key_BGKD, value_BGKD, attn_mask=mask, scale=scale)
    else:
        output = _attend(query_BGXD, key_BGKD, value_BGKD, mask, scale, softcap, before)
    output_BHQD = output.reshape(batch, heads, queries, -1)
    return output_BHQD.transpose(1, 2).contiguous(), None


def _attend(
    query_BGXD: torch.Tensor,
    key_BGKD: torch.Tensor,
    value_BGKD: torch.Tensor,
    mask_B1XK: torch.Tensor,
    scale: float,
    softcap: float | None,
    before: KeysValues | None,
) -> torch.Tensor:
    """Attention to what all rows share, as one product of all their queries, and to their own keys."""
    batch, groups, queries, width = query_BGXD.shape
    scores = query_BGXD @ key_BGKD.transpose(2, 3)
    if before is not None:
        together_GYD = query_BGXD.transpose(0, 1).reshape(groups, -1, width)
        to_shared = (together_GYD @ before[0].transpose(1, 2)).view(groups, batch, queries, -1)
        scores = torch.cat([to_shared.transpose(0, 1), scores], 3)
    scores = scores.float() * scale
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    weights = scores.masked_fill_(~mask_B1XK, -torch.inf).softmax(-1).to(value_BGKD.dtype)
    own = weights.shape[3] - key_BGKD.shape[2]
    output = weights[..., own:] @ value_BGKD
    if before is not None:
        read_GYP = weights[..., :own].transpose(0, 1).reshape(groups, -1, own)
        output = output + (read_GYP @ before[1]).view(groups, batch, queries, -1).transpose(0, 1)
    return output


AttentionInterface.register(NAME, rows_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


class _Prompts(Cache):  # type: ignore[misc]
    """Takes the keys and values of prompts that are run, layer by layer."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.taken: dict[int, KeysValues] = {}

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        self.taken[layer_idx] = key_states, value_states
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


class _Buffers(_Prompts):
    """Keys and values of the rows, [S, G, C, D] a layer; an update adds one position to each of the first rows."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[int] = []

    def start(self) -> None:
        """Before a step: where it writes, and how far rows reach after it."""
        self.reach = max(self.lengths) + 1
        device = self.taken[0][0].device
        self.places_B = torch.tensor(self.lengths, device=device)
        self.rows_B = torch.arange(len(self.lengths), device=device)
        self.fit(len(self.lengths), self.reach)

    def fit(self, rows: int, positions: int) -> None:
        """Make the buffers at least so large."""
        for layer, pair in self.taken.items():
            size, _, capacity, _ = pair[0].shape
            if rows > size or positions > capacity:
                larger = (max(rows, size), positions + ROOM if positions > capacity else capacity)
                self.taken[layer] = (_larger(pair[0], *larger), _larger(pair[1], *larger))

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        keys, values = self.taken[layer_idx]
        keys[self.rows_B, :, self.places_B] = key_states[:, :, 0]
        values[self.rows_B, :, self.places_B] = value_states[:, :, 0]
        rows = len(self.lengths)
        return keys[:rows, :, : self.reach], values[:rows, :, : self.reach]

    def join(self, prompts: _Prompts, lengths: Sequence[int], copies: Sequence[int]) -> None:
        """Add rows: each prompt, padded on the left, so many times."""
        first, width = len(self.lengths), max(lengths)
        total = first + sum(copies)
        for layer, pair in prompts.taken.items():
            if layer not in self.taken:
                self.taken[layer] = tuple(_larger(each[:0], total, width + ROOM) for each in pair)  # type: ignore[assignment]
        self.fit(total, width)
        for layer, (keys, values) in prompts.taken.items():
            own_keys, own_values = self.taken[layer]
            row = first
            for number, (length, times) in enumerate(zip(lengths, copies, strict=True)):
                own_keys[row : row + times, :, :length] = keys[number, :, keys.shape[2] - length :]
                own_values[row : row + times, :, :length] = values[number, :, values.shape[2] - length :]
                row += times
        for length, times in zip(lengths, copies, strict=True):
            self.lengths += [length] * times

    def keep(self, order: Sequence[int], start: int = 0) -> None:
        """Row i becomes what row `order[i]` was, from position `start` on; rows beyond are gone."""
        moved = [(to, of) for to, of in enumerate(order) if to != of]
        if moved:
            device = self.taken[0][0].device
            to, of = (torch.tensor(each, device=device) for each in zip(*moved, strict=True))
            end = max(self.lengths[of] for _, of in moved)
            for pair in self.taken.values():
                for each in pair:
                    each[to, :, start:end] = each[of, :, start:end]
        self.lengths = [self.lengths[of] for of in order]


def _larger(tensor_SGCD: torch.Tensor, rows: int, positions: int) -> torch.Tensor:
    size, groups, capacity, width = tensor_SGCD.shape
    larger = tensor_SGCD.new_zeros((rows, groups, positions, width))
    larger[:size, :, :capacity] = tensor_SGCD
    return larger


class Rows:
    """The rows of one model. `prefix` are the tokens that all prompts begin with; `own_head` runs the model's own
    way from states to logits."""

    def __init__(self, loaded: LocalModel, prefix: Sequence[int] = (), own_head: bool = False) -> None:
        self.model, self.device = loaded.model, loaded.device
        self.head = self.model.get_output_embeddings()
        self.cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        self.own_head = own_head
        self.buffers = _Buffers()
        self.space = torch.empty(0)
        self.shared = Shared([], 0)
        if prefix:
            taken = self._prompts([list(prefix)])[1].taken
            self.shared = Shared(
                [(keys[0], values[0]) for _, (keys, values) in sorted(taken.items())], len(prefix)
            )

    def __len__(self) -> int:
        return len(self.buffers.lengths)

    def beside(self) -> Rows:
        """No rows yet, with the same beginning."""
        other = copy(self)
        other.buffers, other.space = _Buffers(), torch.empty(0)
        return other

    @property
    def held(self) -> int:
        """How many rows there is room for without more memory."""
        return len(self.buffers.taken[0][0]) if self.buffers.taken else 0

    def clear(self) -> None:
        """Let go of all rows, and of the memory they took."""
        self.buffers, self.space = _Buffers(), torch.empty(0)

    def join(self, prompts: Sequence[Sequence[int]], copies: Sequence[int]) -> torch.Tensor:
        """Add each prompt (without the shared beginning) as so many rows; returns their last states."""
        states, first = [], 0
        for last in _cuts([len(prompt) for prompt in prompts]):
            state, taken = self._prompts(prompts[first:last])
            self.buffers.join(taken, [len(prompt) for prompt in prompts[first:last]], copies[first:last])
            states.append(state)
            first = last
        times = torch.tensor(list(copies), device=self.device)
        return torch.cat(states).repeat_interleave(times, 0)

    def _prompts(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, _Prompts]:
        width, past = max(map(len, prompts)), self.shared.length
        pad_B1 = torch.tensor([[width - len(prompt)] for prompt in prompts], device=self.device)
        tokens_BQ = torch.tensor(
            [[0] * (width - len(row)) + list(row) for row in prompts], device=self.device
        )
        steps_Q = torch.arange(width, device=self.device)
        positions_BQ = (steps_Q - pad_B1).clamp(min=0) + past
        earlier_QQ = steps_Q.unsqueeze(1) >= steps_Q
        # Padding sees itself, and the shared beginning: a softmax over nothing is no number.
        own_BQQ = (earlier_QQ & (steps_Q >= pad_B1).unsqueeze(1)) | torch.eye(
            width, device=self.device
        ).bool()
        allowed_BQK = F.pad(own_BQQ, (past, 0), value=True)
        keys_BK = torch.cat(
            [torch.arange(past, device=self.device).expand(len(prompts), -1), positions_BQ], 1
        )
        taken = _Prompts()
        return self._run(tokens_BQ, positions_BQ, allowed_BQK, keys_BK, taken), taken

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Add one token to every row; returns the states after it."""
        buffers, past = self.buffers, self.shared.length
        buffers.start()
        keys_K = torch.arange(past + buffers.reach, device=self.device)
        positions_B1 = (buffers.places_B + past).unsqueeze(1)
        tokens_B1 = torch.tensor(list(tokens), device=self.device).unsqueeze(1)
        allowed_B1K = (keys_K <= positions_B1).unsqueeze(1)
        states = self._run(tokens_B1, positions_B1, allowed_B1K, keys_K.expand(len(tokens), -1), buffers)
        buffers.lengths = [length + 1 for length in buffers.lengths]
        return states

    def keep(self, order: Sequence[int], start: int = 0) -> None:
        """Row i becomes what row `order[i]` was, all of it or from position `start` on (beyond what is shared);
        rows beyond are gone."""
        self.buffers.keep(order, start)

    def _run(
        self,
        tokens_BQ: torch.Tensor,
        positions_BQ: torch.Tensor,
        allowed_BQK: torch.Tensor,
        keys_BK: torch.Tensor,
        cache: Cache,
    ) -> torch.Tensor:
        """One pass: the last states [B, D], or with the model's own head the logits [B, V]."""
        inputs = {
            "input_ids": tokens_BQ,
            "position_ids": positions_BQ,
            "attention_mask": layer_masks(
                self.model.config, allowed_BQK, positions_BQ, keys_BK, itself=False
            ),
            "past_key_values": cache,
            "use_cache": True,
            "shared": self.shared,
        }
        if self.own_head:
            last = torch.tensor([-1], device=self.device)
            output: torch.Tensor = self.model(**inputs, logits_to_keep=last).logits[:, -1]
        else:
            output = getattr(self.model, self.model.base_model_prefix)(**inputs)[0][:, -1]
        return output

    def logits(self, states_BD: torch.Tensor) -> torch.Tensor:
        """Logits [V, B] of states, until the next call; V is rounded up to whole blocks, beyond the vocabulary they
        are -inf."""
        if self.own_head:
            logits_VB = states_BD.T
            return F.pad(logits_VB, (0, 0, 0, -len(logits_VB) % BLOCK), value=-torch.inf).contiguous()
        weight_VD, vocabulary = self.head.weight, len(self.head.weight)
        states_DB = states_BD.to(weight_VD.dtype).T.contiguous()
        logits_VB = self._space(vocabulary + -vocabulary % BLOCK, len(states_BD))
        logits_VB[vocabulary:] = -torch.inf
        for start in range(0, vocabulary, TILE):
            part = logits_VB[start : min(start + TILE, vocabulary)]
            torch.mm(weight_VD[start : start + TILE], states_DB, out=part)
            if self.head.bias is not None:
                part += self.head.bias[start : start + TILE].unsqueeze(1)
            if self.cap is not None:
                part.div_(self.cap).tanh_().mul_(self.cap)
        return logits_VB

    def _space(self, size: int, rows: int) -> torch.Tensor:
        """Room for logits, kept from step to step: clearing fresh pages takes as long as the product."""
        if self.space.numel() < size * rows:
            self.space = torch.empty(size * rows, dtype=self.head.weight.dtype, device=self.device)
        return self.space[: size * rows].view(size, rows)


def _cuts(lengths: Sequence[int]) -> Iterator[int]:
    """Where prompts are cut into passes of at most PREFILL tokens with padding."""
    widest = count = 0
    for number, length in enumerate(lengths):
        widest, count = max(widest, length), count + 1
        if count > 1 and widest * count > PREFILL:
            yield number
            widest, count = length, 1
    yield len(lengths)


@contextmanager
def attending(loaded: LocalModel) -> Iterator[None]:
    """Within it the model's layers attend as rows do."""
    before = loaded.model.config._attn_implementation
    loaded.model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        loaded.model.set_attn_implementation(before)


@torch.no_grad()
def own_head_needed(loaded: LocalModel, prompt: Sequence[int]) -> bool:
    """Whether the model does more than its output head and a soft cap, so that its own way to logits is run.

    Compares the logits of a prompt's last tokens with the plain forward pass. Raises TriceError where rows do not
    give them at all."""
    ids = list(prompt[:PROBE])
    if len(ids) < STEPS + 2:
        ids = (ids * (STEPS + 2))[: STEPS + 2]
    whole = {"input_ids": torch.tensor([ids], device=loaded.device), "use_cache": False}
    plain_TV = loaded.model(**whole).logits[0]
    exact = loaded.model.dtype in TOLERANCE
    reason = "its logits differ"
    for own_head in (False, True):
        try:
            if not own_head and not exact and _distance(_our_head(loaded, ids), plain_TV) > HEAD_TOLERANCE:
                continue
            with attending(loaded):
                rows = Rows(loaded, ids[:1], own_head)
                states = [rows.join([ids[1:-STEPS]], [1]), *(rows.step([token]) for token in ids[-STEPS:])]
                ours_TV = torch.stack([rows.logits(each)[: plain_TV.shape[1], 0].clone() for each in states])
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            continue
        theirs_TV = plain_TV[-STEPS - 1 :]
        limit = TOLERANCE[loaded.model.dtype] if exact else HALF_TOLERANCE
        far = _distance(ours_TV, theirs_TV)
        if far > limit and not exact:
            with rounding(loaded.model):
                moved_TV = loaded.model(**whole).logits[0, -STEPS - 1 :]
            limit = TIMES * _distance(moved_TV, theirs_TV)
        if far <= limit:
            return own_head
    raise TriceError(f"{type(loaded.model).__name__} cannot generate in rows ({reason})")


def _our_head(loaded: LocalModel, ids: Sequence[int]) -> torch.Tensor:
    """The logits [T, V] that our output head gives for the states of the plain forward pass."""
    rows = Rows(loaded)
    body = getattr(loaded.model, loaded.model.base_model_prefix)
    states_TD = body(input_ids=torch.tensor([ids], device=loaded.device), use_cache=False)[0][0]
    return rows.logits(states_TD)[: len(rows.head.weight)].T


def _distance(ours_TV: torch.Tensor, theirs_TV: torch.Tensor) -> float:
    """Root mean square over tokens of the difference, relative to the spread of the logits."""
    ours, theirs = ours_TV.float(), theirs_TV.float()
    spread = (theirs - theirs.mean(1, keepdim=True)).norm(dim=1)
    return float(((ours - theirs).norm(dim=1) / spread).square().mean().sqrt())
