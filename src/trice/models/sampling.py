"""Sampling parameters. This module is separate from the decoder so that recipes do not load torch."""

from __future__ import annotations

from dataclasses import dataclass

from trice.errors import InputError, check_number

# Below this temperature the most probable token is chosen; much lower, float32 overflows.
GREEDY_BELOW = 1e-5
# How `split` decides what is known: the share of so many answers that must be right, of which the first is greedy
# and the others are sampled at this temperature.
SPLIT_SAMPLES, SPLIT_TEMPERATURE, KNOWN = 3, 0.7, 1.0


@dataclass(frozen=True)
class Sampling:
    """How responses are sampled.

    Args:
        max_new_tokens: Maximum length of a response.
        temperature: 0 is greedy.
        top_k: The number of tokens to sample from; 0 is the whole vocabulary.
        top_p: The cumulative probability of the tokens to sample from; 1 is the whole vocabulary.
        samples: Number of responses to each prompt.
        beams: Width of a beam search, whose best beams are the samples; 1 is no beam search.
        seed: Seed of the random numbers.
        repetition_penalty: Divides (below zero: multiplies) the scores of tokens that occur in the prompt or the
            response (Keskar et al. 2019, section 4.1).

    Raises:
        InputError: A number is out of its range, or there are fewer beams than samples.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    samples: int = 1
    beams: int = 1
    seed: int = 0
    repetition_penalty: float = 1.0

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is chosen."""
        return self.temperature < GREEDY_BELOW

    @property
    def without_effect(self) -> str | None:
        """The name of a parameter that changes nothing, because greedy decoding always chooses the likeliest token."""
        if not self.greedy:
            return None
        if self.top_k or self.top_p < 1:
            return "top_k" if self.top_k else "top_p"
        return "samples" if self.samples > 1 and self.beams == 1 else None

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "samples", "beams"):
            check_number(name, getattr(self, name), int, least=1)
        check_number("top_k", self.top_k, int, least=0)
        check_number("seed", self.seed, int)
        check_number("temperature", self.temperature, float, least=0)
        check_number("top_p", self.top_p, float, above=0, most=1)
        check_number("repetition_penalty", self.repetition_penalty, float, above=0)
        if 1 < self.beams < self.samples:
            raise InputError(f"samples={self.samples} needs at least as many beams, not {self.beams}")
