"""Packing: the sequences of a micro-batch as one tree of tokens, in which every distinct prefix is computed once.

The sequences of a micro-batch (each prompt with each of its responses) share beginnings: the instruction of a task,
the prompt of a question, the first tokens of similar candidates. Sorted sequences form a tree, whose tokens are
laid out in one row in depth-first order, each at the position that it has in its own sequence. A token sees its
ancestors, which are the earlier tokens whose subtree contains it; so one number for each token, the end of its
subtree, is the whole mask. The tree has no padding, the last token of a response is predicted but never read, and
each response gets the log-probabilities that it would get alone.

A model that cannot run such a row gets the layout `padded`: one sequence in each row, with the usual attention
mask. This module does not run a model.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch

from trice.errors import InputError
from trice.models.batching import common_length

Layout = Literal["blocks", "mask", "padded"]
"""How a micro-batch is laid out: a tree whose attention is computed in blocks of tokens, a tree under one mask, or
one padded sequence in each row."""

BLOCK = 64  # tokens whose attention is one product; larger where paths are long
LONGEST_PATH = 3  # in blocks, so that the keys gathered for all blocks are at most four times the tokens


class ResponseTokens(NamedTuple):
    """A response as token ids, and which of them carry loss (those of a tool's result do not)."""

    ids: list[int]
    loss: list[bool]


@dataclass(frozen=True)
class TokenizedExample:
    """One question to train on: token ids of the prompt, candidate responses, and the reward of each.

    Of several candidates with the highest reward the first is the target of L_sft. `reference` are the candidates'
    scores under the policy before training, for an objective that compares with it. `utility` is what a call and an
    answer without one are worth; the last responses, beyond the rewards, are then the beginnings of a call of each
    tool. An example without rewards trains the decision alone.
    """

    prompt: list[int]
    responses: list[ResponseTokens]
    rewards: list[float]
    reference: list[float] | None = None
    utility: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.prompt:
            raise InputError(
                "a training example has a prompt without tokens; the first token has nothing before it"
            )

    @classmethod
    def of(
        cls, prompt: Sequence[int], responses: Sequence[Sequence[int]], rewards: Sequence[float] = (0.0,)
    ) -> Self:
        """An example in which every response token carries loss.

        Args:
            prompt: Token ids, with the start token if the model has one.
            responses: Token ids of each candidate, with the end token.
            rewards: The reward of each candidate.
        """
        masked = [ResponseTokens(list(ids), [True] * len(ids)) for ids in responses]
        return cls(list(prompt), masked, list(rewards))


@dataclass(frozen=True)
class Packed:
    """A micro-batch in R rows of T tokens, with N response tokens of S responses to Q questions.

    M hidden states, at the places `source_M` of the flattened [R·T], predict E distinct next tokens: `target_E`
    after the state `state_E`. Response token n is the prediction `edge_N[n]` and belongs to response
    `response_N[n]`. `slot_QK` holds the response numbers of each question, -1 if it has fewer than K, and
    `opening_QJ` those of the beginnings of calls, whose questions have `utility_Q2`, the worth of a call and of an
    answer. `allowed_BQK` says which keys a query sees: all T tokens in the layout `mask`; in `blocks` the tokens
    `keys_BK` of a block, its own tokens last; in `padded`, as [R, T], which tokens are not padding.
    """

    tokens_RT: torch.Tensor
    positions_RT: torch.Tensor
    allowed_BQK: torch.Tensor
    keys_BK: torch.Tensor | None
    source_M: torch.Tensor
    state_E: torch.Tensor
    target_E: torch.Tensor
    edge_N: torch.Tensor
    response_N: torch.Tensor
    responses: int
    slot_QK: torch.Tensor
    rewards_QK: torch.Tensor
    reference_QK: torch.Tensor | None
    opening_QJ: torch.Tensor | None
    utility_Q2: torch.Tensor | None

    @property
    def real_QK(self) -> torch.Tensor:
        """Which candidates exist; a question may have fewer than K."""
        return self.slot_QK >= 0

    def by_question(self, values_S: torch.Tensor) -> torch.Tensor:
        """Values of the responses as [Q, K]; entries that are not real are arbitrary."""
        return values_S[self.slot_QK.clamp(min=0)]

    def best_N(self) -> torch.Tensor:
        """Which response tokens belong to the best-rewarded response of their question, the first of equals."""
        best_Q = self.rewards_QK.masked_fill(~self.real_QK, -torch.inf).argmax(1)
        best_S = self.slot_QK.gather(1, best_Q.unsqueeze(1)).squeeze(1)
        return torch.isin(self.response_N, best_S)

    def to(self, device: torch.device | str) -> Packed:
        """A copy on another device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **moved)


def tree_size(examples: Sequence[TokenizedExample]) -> int:
    """The number of tokens in the tree of the examples."""
    sequences = sorted(ids for ids, _, _ in _sequences(examples))
    return sum(
        len(ids) - common_length(before, ids)
        for before, ids in zip([[], *sequences], sequences, strict=False)
    )


def micro_batches(
    examples: Sequence[TokenizedExample], token_budget: int, processes: int = 1
) -> list[list[TokenizedExample]]:
    """Divide a batch into micro-batches of about equal size, each with at most `token_budget` tokens in its tree.

    A question is never divided; one that exceeds the budget is a separate micro-batch. Questions with similar
    prompts stay together. The number of micro-batches is a multiple of `processes`; the last ones may be empty.
    """
    order = sorted(examples, key=lambda example: example.prompt)
    overlaps = [common_length(one.prompt, other.prompt) for one, other in itertools.pairwise(order)]
    sizes = [tree_size([example]) for example in order]
    added = [size - overlap for size, overlap in zip(sizes, [0, *overlaps], strict=False)]
    ends = list(itertools.accumulate(added))

    def divided(parts: int) -> list[list[int]]:
        middle = [(end - size / 2) * parts / ends[-1] for end, size in zip(ends, added, strict=True)]
        groups = itertools.groupby(range(len(order)), key=lambda i: min(parts - 1, int(middle[i])))
        return [list(group) for _, group in groups]

    def fits(group: list[int]) -> bool:
        repeated = sizes[group[0]] - added[group[0]]  # the first shares this with the micro-batch before
        return len(group) == 1 or sum(added[i] for i in group) + repeated <= token_budget

    if not order:
        return [[] for _ in range(processes)]
    fewest = -(-ends[-1] // token_budget)
    counts = itertools.count(-(-fewest // processes) * processes, processes)
    groups = next(groups for groups in map(divided, counts) if all(map(fits, groups)))
    missing = -len(groups) % processes
    return [[order[i] for i in group] for group in groups] + [[] for _ in range(missing)]


def _sequences(examples: Sequence[TokenizedExample]) -> list[tuple[list[int], int, int]]:
    """The tokens that are read for every (question, response), all but the last, with both numbers."""
    return [
        (example.prompt + response.ids[:-1], question, number)
        for question, example in enumerate(examples)
        for number, response in enumerate(example.responses)
    ]


class _Tree:
    """Tokens in depth-first order. `paths` has the places of a response's tokens, by question and response
    number."""

    def __init__(self, examples: Sequence[TokenizedExample]) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.ends: list[int] = []  # the end of each token's subtree
        self.paths: dict[tuple[int, int], list[int]] = {}
        self.starts: list[int] = []  # the first token of each run of tokens that one sequence adds
        self.run_paths: list[list[int]] = []  # the path of that sequence
        path: list[int] = []
        before: list[int] = []
        for ids, question, number in sorted(_sequences(examples)):
            common = common_length(before, ids)
            self._close(path[common:])
            first = len(self.tokens)
            path, before = path[:common] + list(range(first, first + len(ids) - common)), ids
            if common < len(ids):
                self.tokens += ids[common:]
                self.positions += range(common, len(ids))
                self.ends += [0] * (len(ids) - common)  # filled in when the path closes
                self.starts.append(first)
                self.run_paths.append(path)
            self.paths[question, number] = path
        self._close(path)

    def _close(self, places: Sequence[int]) -> None:
        for place in places:
            self.ends[place] = len(self.tokens)

    def ancestors(self, place: int) -> list[int]:
        """The ancestors of a token, the root first."""
        run = bisect_right(self.starts, place) - 1
        return self.run_paths[run][: self.positions[place]]


def pack(
    examples: Sequence[TokenizedExample], layout: Layout = "blocks", device: torch.device | str = "cpu"
) -> Packed:
    """Lay out a micro-batch. `slot_QK` keeps the order of questions and candidates."""
    if layout == "padded":
        tokens, positions, allowed, paths = _padded(examples)
        keys = None
    else:
        tree = _Tree(examples)
        paths = tree.paths
        tokens, positions = _tensor([tree.tokens]), _tensor([tree.positions])
        keys, allowed = _blocks(tree) if layout == "blocks" else (None, _whole(tree))
    return Packed(
        tokens_RT=tokens,
        positions_RT=positions,
        allowed_BQK=allowed,
        keys_BK=keys,
        **_edges(examples, paths),  # type: ignore[arg-type]
        **_candidates(examples),
    ).to(device)


def _tensor(numbers: Sequence[Any]) -> torch.Tensor:
    """A tensor of integers; NumPy reads a list four times as fast as torch."""
    return torch.from_numpy(np.array(numbers, dtype=np.int64))


def _padded(
    examples: Sequence[TokenizedExample],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[tuple[int, int], list[int]]]:
    sequences = _sequences(examples)
    width = max(len(ids) for ids, _, _ in sequences)
    tokens = torch.tensor([ids + [0] * (width - len(ids)) for ids, _, _ in sequences])
    lengths = torch.tensor([len(ids) for ids, _, _ in sequences])
    positions = torch.arange(width).expand_as(tokens)
    paths = {
        (question, number): list(range(row * width, row * width + len(ids)))
        for row, (ids, question, number) in enumerate(sequences)
    }
    return tokens, positions, positions < lengths.unsqueeze(1), paths


def _whole(tree: _Tree) -> torch.Tensor:
    """Which of all T tokens see which, [1, T, T]."""
    place, end = torch.arange(len(tree.tokens)), _tensor(tree.ends)
    return ((place.unsqueeze(1) >= place) & (place.unsqueeze(1) < end)).unsqueeze(0)


def _blocks(tree: _Tree) -> tuple[torch.Tensor, torch.Tensor]:
    """The keys of each block of successive tokens, [B, K], and which of them its queries see, [B, Q, K].

    A subtree is contiguous, so an earlier token that any query of a block sees is an ancestor of the block's first
    token. A block's keys are therefore these ancestors and the block itself, padded at the front.
    """
    total = len(tree.tokens)
    size = BLOCK
    while size * LONGEST_PATH < max(tree.positions[::size]):
        size *= 2
    size = min(size, total)
    starts = range(0, total, size)
    longest = max(tree.positions[start] for start in starts)
    keys_BK = torch.full((len(starts), longest + size), total)  # `total` is padding, which nothing sees
    keys = keys_BK.numpy()
    for block, start in enumerate(starts):
        ancestors = tree.ancestors(start)
        keys[block, longest - len(ancestors) : longest] = ancestors
        end = min(start + size, total)
        keys[block, longest : longest + end - start] = range(start, end)
    queries_BQ1 = torch.arange(len(starts) * size).view(len(starts), size, 1)
    ends_B1K = _tensor([*tree.ends, 0])[keys_BK].unsqueeze(1)
    allowed_BQK = (keys_BK.unsqueeze(1) <= queries_BQ1) & (queries_BQ1 < ends_B1K)
    return keys_BK.clamp(max=total - 1), allowed_BQK


def _edges(
    examples: Sequence[TokenizedExample], paths: dict[tuple[int, int], list[int]]
) -> dict[str, torch.Tensor]:
    """Which hidden states predict which tokens, each distinct pair once, and the pairs of each response."""
    sources: list[int] = []
    targets: list[int] = []
    counts: list[bool] = []
    lengths: list[int] = []
    for question, example in enumerate(examples):
        for number, response in enumerate(example.responses):
            sources += paths[question, number][len(example.prompt) - 1 :]
            targets += response.ids
            counts += response.loss
            lengths.append(len(response.ids))
    with_loss = np.array(counts, dtype=bool)
    source_N, target_N = (np.array(each, dtype=np.int64)[with_loss] for each in (sources, targets))
    source_M, state_N = _distinct(source_N)
    pair_E, edge_N = _distinct((state_N << 32) + target_N)
    return {
        "source_M": torch.from_numpy(source_M),
        "state_E": torch.from_numpy(pair_E >> 32),
        "target_E": torch.from_numpy(pair_E & (2**32 - 1)),
        "edge_N": torch.from_numpy(edge_N),
        "response_N": torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)[with_loss]),
    }


def _distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values in order of appearance, and the number of each value among them."""
    found, first, which = np.unique(values, return_index=True, return_inverse=True)
    order = first.argsort()
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return found[order], place[which]


def _candidates(examples: Sequence[TokenizedExample]) -> dict[str, Any]:
    """Response numbers, rewards and reference scores by question, each [Q, K]; the beginnings of calls, [Q, J], and
    the worth of both decisions, [Q, 2]."""
    openings = [len(each.responses) - len(each.rewards) if each.utility else 0 for each in examples]
    counts = [len(each.responses) - opening for each, opening in zip(examples, openings, strict=True)]
    number = itertools.count()
    slots, first = [], []
    for count, opening in zip(counts, openings, strict=True):
        slots.append([next(number) for _ in range(count)])
        first.append([next(number) for _ in range(opening)])

    def table(rows: Sequence[Sequence[float]], dtype: torch.dtype, empty: float) -> torch.Tensor:
        width = max(1, *map(len, rows))
        return torch.tensor([[*row, *[empty] * (width - len(row))] for row in rows], dtype=dtype)

    pairs = list(zip(examples, counts, strict=True))
    references = [each.reference[:count] for each, count in pairs if each.reference is not None]
    utilities = [example.utility or (0.0, 0.0) for example in examples]
    return {
        "responses": next(number),
        "slot_QK": table(slots, torch.long, -1),
        "rewards_QK": table([each.rewards[:count] for each, count in pairs], torch.float64, 0.0),
        "reference_QK": table(references, torch.float64, 0.0) if references else None,
        "opening_QJ": table(first, torch.long, -1) if any(openings) else None,
        "utility_Q2": table(utilities, torch.float64, 0.0) if any(openings) else None,
    }
