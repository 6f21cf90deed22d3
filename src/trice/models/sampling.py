"""How responses are drawn; kept apart from the decoder so that recipes need not load torch."""

from __future__ import annotations

from dataclasses import dataclass

from trice.errors import InputError

TINY = 1e-5  # below this temperature the likeliest token is all but certain; far below, float32 overflows
# What `split` takes for knowledge: of so many answers, the first greedy and the others drawn at this temperature,
# the share that has to be right.
SPLIT_SAMPLES, SPLIT_TEMPERATURE, KNOWN = 3, 0.7, 1.0


@dataclass(frozen=True)
class Sampling:
    """`temperature` 0 is greedy; `top_k` 0 and `top_p` 1 keep the whole vocabulary; `samples` is the number
    of responses for each prompt, `beams` that of a beam search (1: none), whose best ones are then the samples.
    `repetition_penalty` divides (below zero: multiplies) the scores of tokens that stand in the prompt or the
    response already (Keskar et al. 2019, section 4.1). `logprobs` keeps each response's log-probability."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    samples: int = 1
    beams: int = 1
    seed: int = 0
    repetition_penalty: float = 1.0
    logprobs: bool = False

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken: a temperature below `TINY` counts as 0."""
        return self.temperature < TINY

    def __post_init__(self) -> None:
        if 1 < self.beams < self.samples:
            raise InputError(f"{self.samples} samples of {self.beams} beams: there are not as many")
