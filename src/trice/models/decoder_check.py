"""Checks that the batch decoder computes a model's own logits, before the model generates with it.

The logits of a few prompt tokens are compared with the plain forward pass. In full precision the tolerance is
fixed; in half precision it may be as wide as the model's own rounding (`trice.models.rounding`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from trice.errors import TriceError, error_line
from trice.models.batch_attention import batch_attention
from trice.models.batch_decoder import BatchDecoder
from trice.models.batching import shared_prefix
from trice.models.local import LocalModel
from trice.models.rounding import within_rounding

PROBE_LENGTH = 24  # tokens that are compared
STEPS = 4  # of them that are decoded one by one
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}  # of logits, relative
HALF_TOLERANCE = 0.1  # in half precision, unless the model's rounding amounts to more
HEAD_TOLERANCE = 0.03  # of the output head alone, which amplifies nothing


@contextmanager
def checked_decoder(loaded: LocalModel, prompts: Sequence[Sequence[int]]) -> Iterator[BatchDecoder]:
    """A decoder for prompts, with their shared prefix, within `batch_attention`. The first use of a model checks that
    it can be decoded so. Raises TriceError if it cannot."""
    if loaded.use_model_head is None:
        loaded.use_model_head = needs_model_head(loaded, max(prompts, key=len))
    with batch_attention(loaded):
        yield BatchDecoder(loaded, prompts[0][: shared_prefix(prompts)], loaded.use_model_head)


@torch.no_grad()
def needs_model_head(loaded: LocalModel, prompt: Sequence[int]) -> bool:
    """Whether the model does more after its last layer than its output head and a soft cap, so that the decoder has
    to call the model's own forward method for logits.

    Raises:
        TriceError: The decoder cannot compute the model's logits.
    """
    ids = list(prompt[:PROBE_LENGTH])
    if len(ids) < STEPS + 2:
        ids = (ids * (STEPS + 2))[: STEPS + 2]
    inputs = {"input_ids": torch.tensor([ids], device=loaded.device), "use_cache": False}
    plain_TV = loaded.model(**inputs).logits[0]
    expected_TV = plain_TV[-STEPS - 1 :]
    exact = loaded.model.dtype in TOLERANCE

    def from_rounding() -> float:
        return _difference(loaded.model(**inputs).logits[0, -STEPS - 1 :], expected_TV)

    reason = "its logits differ"
    for use_model_head in (False, True):
        try:
            if (
                not use_model_head
                and not exact
                and _difference(_head_logits(loaded, ids), plain_TV) > HEAD_TOLERANCE
            ):
                continue
            found_TV = _decoder_logits(loaded, ids, use_model_head)[:, : plain_TV.shape[1]]
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = error_line(error)
            continue
        difference = _difference(found_TV, expected_TV)
        if exact:
            agrees = difference <= TOLERANCE[loaded.model.dtype]
        else:
            agrees = within_rounding(loaded.model, difference, HALF_TOLERANCE, from_rounding)
        if agrees:
            return use_model_head
    raise TriceError(f"{type(loaded.model).__name__} cannot generate in batches ({reason})")


def _decoder_logits(loaded: LocalModel, ids: Sequence[int], use_model_head: bool) -> torch.Tensor:
    """The decoder's logits [T, V] of the last tokens: a shared prefix, a prefill, and single steps."""
    with batch_attention(loaded):
        decoder = BatchDecoder(loaded, ids[:1], use_model_head)
        states = [decoder.append([ids[1:-STEPS]], [1]), *(decoder.step([token]) for token in ids[-STEPS:])]
        return torch.stack([decoder.logits(each)[:, 0].clone() for each in states])


def _head_logits(loaded: LocalModel, ids: Sequence[int]) -> torch.Tensor:
    """The logits [T, V] that the decoder's output head gives for the states of the plain forward pass."""
    decoder = BatchDecoder(loaded)
    body = getattr(loaded.model, loaded.model.base_model_prefix)
    states_TD = body(input_ids=torch.tensor([ids], device=loaded.device), use_cache=False)[0][0]
    return decoder.logits(states_TD)[: len(decoder.head.weight)].T


def _difference(found_TV: torch.Tensor, expected_TV: torch.Tensor) -> float:
    """Root mean square over tokens of the difference, relative to the spread of the logits."""
    found, expected = found_TV.float(), expected_TV.float()
    spread = (expected - expected.mean(1, keepdim=True)).norm(dim=1)
    return float(((found - expected).norm(dim=1) / spread).square().mean().sqrt())
