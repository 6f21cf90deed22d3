"""Packing: every distinct prefix of a micro-batch once, as one tree of tokens.

The sequences of a micro-batch (each prompt with each of its responses) share beginnings: the instruction of a
task, the prompt of a question, the first tokens of like candidates, all of equal ones. Sorted, they are walked
as a tree whose tokens lie in one row, depth first, at the positions they would have alone. A token sees its
ancestors, and those are the earlier tokens whose subtree reaches it: one number a token says it all. Nothing is
padded, last tokens are only predicted and never read, and what each response gets is what it would get alone.

Models that cannot run such a row get `rows`: one sequence a row, padded, with the mask every model takes.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

Layout = Literal["blocks", "mask", "rows"]
"""How a micro-batch is laid out: a tree whose attention runs in blocks of tokens, a tree under one mask, or
one sequence a row."""

BLOCK = 64  # tokens whose attention is one product; larger where paths are long
LONGEST_PATH = 3  # in blocks, so that the keys gathered for all blocks are at most four times the tokens


class Tokens(NamedTuple):
    """A response as token ids, and which of them carry loss (a tool's result inside one would not)."""

    ids: list[int]
    loss: list[bool]


@dataclass(frozen=True)
class Example:
    """One question to train on: prompt ids, response tokens and their rewards, best first where equal.

    `reference` are the responses' log-probabilities under the policy as it was before training, where the
    objective asks for them.
    """

    prompt: list[int]
    responses: list[Tokens]
    rewards: list[float]
    reference: list[float] | None = None


@dataclass(frozen=True)
class Packed:
    """A micro-batch in R rows of T tokens, with N response tokens of S responses of Q questions.

    Of M hidden states, at `source_M` of the flattened [R·T], E distinct next tokens are predicted: `target_E`
    after the state `state_E`. Response token n is edge `edge_N[n]` of response `response_N[n]`. `slot_QK` holds
    each question's response numbers, -1 where it has fewer. `allowed_BQK` says which keys a query sees: of all T
    tokens, or in blocks of those `keys_BK` names, a block's own tokens last; in rows, which tokens are real.
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
    slot_QK: torch.Tensor
    rewards_QK: torch.Tensor
    reference_QK: torch.Tensor | None

    def to(self, device: torch.device | str) -> Packed:
        """The same on another device."""
        moved = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **moved)


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # slices are compared without a step in Python for each token
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def tree_size(examples: Sequence[Example]) -> int:
    """How many tokens the examples are as a tree."""
    sequences = sorted(ids for ids, _, _ in _sequences(examples))
    return sum(
        len(ids) - shared(before, ids) for before, ids in zip([[], *sequences], sequences, strict=False)
    )


def micro_batches(examples: Sequence[Example], token_budget: int, processes: int = 1) -> list[list[Example]]:
    """Cut a batch into parts of about equal size, none above `token_budget` tokens of its tree.

    A question is never cut; one that is larger by itself stands alone. Questions with like prompts stay
    together. The number of parts is a multiple of `processes`; the last ones are empty where that takes it.
    """
    order = sorted(examples, key=lambda example: example.prompt)
    overlaps = [shared(one.prompt, other.prompt) for one, other in itertools.pairwise(order)]
    sizes = [tree_size([example]) for example in order]
    added = [size - overlap for size, overlap in zip(sizes, [0, *overlaps], strict=False)]
    ends = list(itertools.accumulate(added))

    def cut(parts: int) -> list[list[int]]:
        middle = [(end - size / 2) * parts / ends[-1] for end, size in zip(ends, added, strict=True)]
        groups = itertools.groupby(range(len(order)), key=lambda i: min(parts - 1, int(middle[i])))
        return [list(group) for _, group in groups]

    def fits(group: list[int]) -> bool:
        alone = sizes[group[0]] - added[group[0]]  # what the first shared with the part before
        return len(group) == 1 or sum(added[i] for i in group) + alone <= token_budget

    if not order:
        return [[] for _ in range(processes)]
    fewest = -(-ends[-1] // token_budget)
    counts = itertools.count(-(-fewest // processes) * processes, processes)
    groups = next(groups for groups in map(cut, counts) if all(map(fits, groups)))
    missing = -len(groups) % processes
    return [[order[i] for i in group] for group in groups] + [[] for _ in range(missing)]


def _sequences(examples: Sequence[Example]) -> list[tuple[list[int], int, int]]:
    """What is read of every (question, response), which is all but the last token, with both numbers."""
    return [
        (example.prompt + response.ids[:-1], question, number)
        for question, example in enumerate(examples)
        for number, response in enumerate(example.responses)
    ]


class _Tree:
    """Tokens being laid out. `paths` gives the flat place of every token read, by question and response."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.ends: list[int] = []  # where the subtree of each token ends
        self.paths: dict[tuple[int, int], list[int]] = {}
        self.starts: list[int] = []  # the first token of each stretch that is laid out at once
        self.stretches: list[list[int]] = []  # and the path that it belongs to
        path: list[int] = []
        before: list[int] = []
        for ids, question, number in sorted(_sequences(examples)):
            common = shared(before, ids)
            self._close(path[common:])
            first = len(self.tokens)
            path, before = path[:common] + list(range(first, first + len(ids) - common)), ids
            if common < len(ids):
                self.tokens += ids[common:]
                self.positions += range(common, len(ids))
                self.ends += [0] * (len(ids) - common)  # filled in when the path closes
                self.starts.append(first)
                self.stretches.append(path)
            self.paths[question, number] = path
        self._close(path)

    def _close(self, places: Sequence[int]) -> None:
        for place in places:
            self.ends[place] = len(self.tokens)

    def above(self, place: int) -> list[int]:
        """The ancestors of a token, from the first."""
        stretch = bisect_right(self.starts, place) - 1
        return self.stretches[stretch][: self.positions[place]]


def pack(
    examples: Sequence[Example], layout: Layout = "blocks", device: torch.device | str = "cpu"
) -> Packed:
    """Lay the examples out. The order of questions and responses is kept in `slot_QK`."""
    if layout == "rows":
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
        **_edges(examples, paths),
        **_candidates(examples),  # type: ignore[arg-type]
    ).to(device)


def _tensor(numbers: Sequence[Any]) -> torch.Tensor:
    """Whole numbers; through NumPy, which reads a list four times as fast."""
    return torch.from_numpy(np.array(numbers, dtype=np.int64))


def _padded(
    examples: Sequence[Example],
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
    """Who sees whom of all T tokens, [1, T, T]."""
    place, end = torch.arange(len(tree.tokens)), _tensor(tree.ends)
    return ((place.unsqueeze(1) >= place) & (place.unsqueeze(1) < end)).unsqueeze(0)


def _blocks(tree: _Tree) -> tuple[torch.Tensor, torch.Tensor]:
    """The keys of each block of successive tokens, [B, K], and which of them its queries see, [B, Q, K].

    An earlier token that any query of a block sees is an ancestor of the block's first token, for its subtree
    is one stretch. So a block's keys are that token's path and the block itself, with padding before them.
    """
    total = len(tree.tokens)
    size = BLOCK
    while size * LONGEST_PATH < max(tree.positions[::size]):
        size *= 2
    size = min(size, total)
    starts = range(0, total, size)
    longest = max(tree.positions[start] for start in starts)
    keys_BK = torch.full(
        (len(starts), longest + size), total
    )  # `total` is nobody, and becomes the last token
    keys = keys_BK.numpy()
    for block, start in enumerate(starts):
        above = tree.above(start)
        keys[block, longest - len(above) : longest] = above
        own = min(size, total - start)
        keys[block, longest : longest + own] = range(start, start + own)
    queries_BQ1 = torch.arange(len(starts) * size).view(len(starts), size, 1)
    ends_B1K = _tensor([*tree.ends, 0])[keys_BK].unsqueeze(1)
    allowed_BQK = (keys_BK.unsqueeze(1) <= queries_BQ1) & (queries_BQ1 < ends_B1K)
    return keys_BK.clamp(max=total - 1), allowed_BQK


def _edges(examples: Sequence[Example], paths: dict[tuple[int, int], list[int]]) -> dict[str, torch.Tensor]:
    """Which hidden states predict which tokens, each distinct pair once, and which pairs a response consists of."""
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
    """The distinct values in order of appearance, and which of them each value is."""
    found, first, which = np.unique(values, return_index=True, return_inverse=True)
    order = first.argsort()
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return found[order], place[which]


def _candidates(examples: Sequence[Example]) -> dict[str, torch.Tensor | None]:
    """Response numbers, rewards and reference log-probabilities by question, each [Q, K]."""
    counts = [len(example.responses) for example in examples]
    slots = itertools.count()

    def table(rows: list[list[float]], dtype: torch.dtype, empty: float) -> torch.Tensor:
        padded = [row + [empty] * (max(counts) - len(row)) for row in rows]
        return torch.tensor(padded, dtype=dtype)

    references = [example.reference for example in examples if example.reference is not None]
    return {
        "slot_QK": table([[next(slots) for _ in range(count)] for count in counts], torch.long, -1),
        "rewards_QK": table([example.rewards for example in examples], torch.float64, 0.0),
        "reference_QK": table(references, torch.float64, 0.0) if references else None,
    }
