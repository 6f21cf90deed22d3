"""Packing: a question's prompt once, its responses as branches, several questions in a row.

Each question is a tree: the prompt's tokens, then every response's, which see the prompt and themselves but
not each other, at the positions they would have alone. Trees are laid into rows of about equal length, so
little is padding, and only the positions that predict a response token go on to the output head. The loss is
that of every response run by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch


class Tokens(NamedTuple):
    """A response as token ids, and which of them carry loss (a tool's result inside one would not)."""

    ids: list[int]
    loss: list[bool]


@dataclass(frozen=True)
class Example:
    """One question to train on: prompt ids, response tokens and their rewards, best first where equal."""

    prompt: list[int]
    responses: list[Tokens]
    rewards: list[float]

    def __len__(self) -> int:
        return len(self.prompt) + sum(len(response.ids) for response in self.responses)


@dataclass(frozen=True)
class Packed:
    """A micro-batch of trees in R rows of T tokens, with N response tokens of S responses of Q questions.

    `source_N` indexes the flattened [R·T] hidden states that predict `target_N`; `response_N` numbers the
    responses through all questions; `slot_QK` holds each question's response numbers, -1 where it has fewer.
    """

    tokens_RT: torch.Tensor
    positions_RT: torch.Tensor
    allowed_RTT: torch.Tensor
    source_N: torch.Tensor
    target_N: torch.Tensor
    response_N: torch.Tensor
    slot_QK: torch.Tensor
    rewards_QK: torch.Tensor


def micro_batches(examples: Sequence[Example], token_budget: int) -> Iterator[list[Example]]:
    """Cut a batch into parts of at most `token_budget` tokens (a larger single question stands alone)."""
    part: list[Example] = []
    for example in sorted(examples, key=len):
        if part and sum(map(len, part)) + len(example) > token_budget:
            yield part
            part = []
        part.append(example)
    if part:
        yield part


def bins(lengths: Sequence[int]) -> list[list[int]]:
    """First-fit decreasing: item numbers in rows no longer than the longest item."""
    rows: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        row = next((row for row, left in enumerate(room) if left >= lengths[item]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(max(lengths))
        rows[row].append(item)
        room[row] -= lengths[item]
    return rows


class _Row:
    """One row being filled."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.tree: list[int] = []  # which question a token belongs to
        self.branch: list[int] = []  # 0 for the prompt, else the number of the response in its question
        self.labels: list[tuple[int, int, int]] = []  # (source, target, response)

    def add(self, tree: int, example: Example, first_response: int) -> None:
        start = len(self.tokens)
        self._extend(tree, 0, example.prompt, 0)
        for number, response in enumerate(example.responses):
            before = start + len(example.prompt) - 1
            here = len(self.tokens)
            self._extend(tree, number + 1, response.ids, len(example.prompt))
            for offset, (token, loss) in enumerate(zip(*response, strict=True)):
                if loss:
                    source = before if offset == 0 else here + offset - 1
                    self.labels.append((source, token, first_response + number))

    def _extend(self, tree: int, branch: int, ids: list[int], position: int) -> None:
        self.tokens += ids
        self.positions += range(position, position + len(ids))
        self.tree += [tree] * len(ids)
        self.branch += [branch] * len(ids)


def pack(examples: Sequence[Example], device: torch.device | str = "cpu") -> Packed:
    """Lay the examples into rows. The order of questions and responses is kept in `slot_QK`."""
    firsts = [0]
    for example in examples:
        firsts.append(firsts[-1] + len(example.responses))
    rows = []
    for items in bins([len(example) for example in examples]):
        row = _Row()
        for item in items:
            row.add(item, examples[item], firsts[item])
        rows.append(row)
    width = max(len(row.tokens) for row in rows)

    def padded(lists: list[list[int]], value: int) -> torch.Tensor:
        return torch.tensor([items + [value] * (width - len(items)) for items in lists], device=device)

    tree_RT = padded([row.tree for row in rows], -1)
    branch_RT = padded([row.branch for row in rows], 0)
    labels = [
        (number * width + source, target, response)
        for number, row in enumerate(rows)
        for source, target, response in row.labels
    ]
    source_N, target_N, response_N = torch.tensor(labels, device=device).T
    most = max(len(example.responses) for example in examples)
    slots = [
        [*range(first, first + len(example.responses)), *[-1] * (most - len(example.responses))]
        for first, example in zip(firsts, examples, strict=False)
    ]
    rewards = [[*example.rewards, *[0.0] * (most - len(example.rewards))] for example in examples]
    return Packed(
        tokens_RT=padded([row.tokens for row in rows], 0),
        positions_RT=padded([row.positions for row in rows], 0),
        allowed_RTT=_tree_mask(tree_RT, branch_RT),
        source_N=source_N,
        target_N=target_N,
        response_N=response_N,
        slot_QK=torch.tensor(slots, device=device),
        rewards_QK=torch.tensor(rewards, device=device, dtype=torch.float64),
    )


def _tree_mask(tree_RT: torch.Tensor, branch_RT: torch.Tensor) -> torch.Tensor:
    """Which tokens a token may see: earlier ones of its own tree that are prompt or of its own branch."""
    width = tree_RT.shape[1]
    earlier_TT = torch.ones(width, width, dtype=torch.bool, device=tree_RT.device).tril()
    same_tree = tree_RT.unsqueeze(2) == tree_RT.unsqueeze(1)
    seen = (branch_RT.unsqueeze(1) == 0) | (branch_RT.unsqueeze(1) == branch_RT.unsqueeze(2))
    return earlier_TT & same_tree & seen
