"""P(call) and hidden states of prompts: the signals that a call threshold is compared with.

P(call) is the probability that a response begins with the opening of a call: the sum over the openings of Π p(token |
prompt, the tokens before it), at temperature 1. Where no single token decides, the product over the opening's tokens is
exact. An opening is, in the format `paper`, the name of an offered tool (without the parenthesis, which may share a
token with what follows it), and in the format `chat` the text that opens a native call. Another tokenisation of the
same text is not counted, and neither is a call after other text or after reasoning. This module decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch

from trice.models.batch_decoder import BatchDecoder
from trice.models.decoder_check import checked_decoder
from trice.models.local import LocalModel
from trice.models.token_sampling import log_sum_exp


class Signals(NamedTuple):
    """Of each prompt: the probability of each opening, and the states of its last token after the asked layers."""

    openings: list[list[float]]
    states: list[list[list[float]]]


@torch.inference_mode()
def read_signals(
    loaded: LocalModel,
    prompts: Sequence[Sequence[int]],
    openings: Sequence[Sequence[int]],
    layers: Sequence[int] = (),
    *,
    batch_size: int = 128,
) -> Signals:
    """The signals of prompts, in one forward pass of each batch and one more step for each further token of an opening.

    Args:
        loaded: The model.
        prompts: Token ids. They must fit into the model's context with an opening.
        openings: Token ids with which a response begins if it calls.
        layers: Numbers of layers, from 1.
        batch_size: The number of rows, prompts times openings.
    """
    if not prompts:
        return Signals([], [])
    order = sorted(range(len(prompts)), key=lambda number: (-len(prompts[number]), number))
    found: dict[int, tuple[list[float], list[list[float]]]] = {}
    size = max(1, batch_size // max(1, len(openings)))
    with checked_decoder(loaded, prompts) as decoder:
        for start in range(0, len(order), size):
            numbers = order[start : start + size]
            part = [list(prompts[number][decoder.shared.length :]) for number in numbers]
            signals = batch_signals(decoder, part, openings, layers)
            found |= zip(numbers, zip(*signals, strict=True), strict=True)
    return Signals(*map(list, zip(*(found[number] for number in range(len(prompts))), strict=True)))


def batch_signals(
    decoder: BatchDecoder,
    prompts: Sequence[Sequence[int]],
    openings: Sequence[Sequence[int]],
    layers: Sequence[int] = (),
) -> Signals:
    """The signals of prompts that are given without the decoder's shared prefix, computed as one batch."""
    decoder, count = decoder.empty_copy(), max(1, len(openings))
    with _recorded_states(decoder.model, layers) as states:
        logits_VB = decoder.logits(decoder.append(prompts, [count] * len(prompts)))
    logps_B = torch.zeros(len(prompts) * count, device=decoder.device)
    for position in range(max(map(len, openings), default=0)):
        if position:
            earlier = [tokens[min(position, len(tokens)) - 1] for tokens in openings]
            logits_VB = decoder.logits(decoder.step(earlier * len(prompts)))
        totals_B = log_sum_exp(logits_VB)
        for column, tokens in enumerate(openings):
            if position < len(tokens):
                rows = slice(column, None, count)
                logps_B[rows] += logits_VB[tokens[position], rows].float() - totals_B[rows]
    probabilities = logps_B.double().exp().view(len(prompts), count)[:, : len(openings)]
    # The prefix is not recorded, and longer prompts are computed in several passes.
    rows_BLD = (
        torch.stack([torch.cat(each) for each in states], 1) if layers else torch.empty(len(prompts), 0)
    )
    return Signals(exclusive(probabilities, openings).tolist(), rows_BLD.float().tolist())


def exclusive(probabilities_BJ: torch.Tensor, openings: Sequence[Sequence[int]]) -> torch.Tensor:
    """The probability of each opening without those of the openings that continue it, such as `search_web` for
    `search`. Their sum is the probability that a response begins with any of them, which is that of the
    `shortest_openings`."""
    found = probabilities_BJ.clone()
    for place in sorted(range(len(openings)), key=lambda place: -len(openings[place])):
        for other, longer in enumerate(openings):
            if _continues(longer, openings[place]):
                found[:, place] -= found[:, other]
    return found.clamp(min=0)


def shortest_openings(openings: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """The openings that continue no other one. A response that begins with any opening begins with one of them."""
    return [tokens for tokens in openings if not any(_continues(tokens, other) for other in openings)]


def _continues(longer: Sequence[int], tokens: Sequence[int]) -> bool:
    return len(longer) > len(tokens) and list(longer[: len(tokens)]) == list(tokens)


def layer_count(model: Any) -> int:
    """The number of layers of a model."""
    return int(model.config.get_text_config().num_hidden_layers)


@contextmanager
def _recorded_states(model: Any, layers: Sequence[int]) -> Iterator[list[list[torch.Tensor]]]:
    """Record the states [B, D] of the last token after these layers, for each pass."""
    states: list[list[torch.Tensor]] = [[] for _ in layers]
    if not layers:
        yield states
        return
    count = layer_count(model)
    lists = (each for each in model.modules() if isinstance(each, torch.nn.ModuleList))
    blocks = next(each for each in lists if len(each) == count)

    def recorder(place: int) -> Any:
        def record(module: Any, inputs: Any, output: Any) -> None:
            hidden_BTD = output[0] if isinstance(output, tuple) else output
            states[place].append(hidden_BTD[:, -1])

        return record

    with ExitStack() as hooks:
        for place, layer in enumerate(layers):
            hooks.enter_context(blocks[layer - 1].register_forward_hook(recorder(place)))
        yield states
