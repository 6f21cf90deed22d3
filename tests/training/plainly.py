"""The objective as the design states it, from the plain model's own forward, one sequence at a time."""

from __future__ import annotations

from typing import Any

import torch

from trice.training.packing import TokenizedExample


def alone(model: Any, example: TokenizedExample) -> list[torch.Tensor]:
    """Each response's log-probabilities from the plain model, one sequence at a time."""
    results = []
    for ids, loss in example.responses:
        tokens = torch.tensor([example.prompt + ids])
        logps = model(input_ids=tokens, use_cache=False).logits[0].log_softmax(-1)
        chosen = logps[:-1].gather(1, tokens[0, 1:, None])[-len(ids) :, 0]
        results.append(chosen[torch.tensor(loss)])
    return results


def objective(model: Any, examples: list[TokenizedExample], alpha: float, margin: float) -> torch.Tensor:
    """α·L_rank + L_sft, with its gradient."""
    rank, sft, tokens = torch.zeros(()), torch.zeros(()), 0
    for example in examples:
        totals = [logps.sum() for logps in alone(model, example)]
        p = [total / len(response.ids) for total, response in zip(totals, example.responses, strict=True)]
        r = example.rewards
        for i in range(len(p)):
            for j in range(len(p)):
                if r[i] < r[j]:
                    rank = rank + (p[i] - p[j] + margin).clamp(min=0)
        best = r.index(max(r))
        sft, tokens = sft - totals[best], tokens + len(example.responses[best].ids)
    return alpha * rank / len(examples) + sft / tokens
