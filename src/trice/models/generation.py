"""Batched generation with a transformers model: prompts as token ids in, texts and ids out as soon as they finish.

The tokens that all prompts share (instruction, few-shot examples) are computed once, and the samples of a question
come from one prefill. Finished rows leave the batch and waiting prompts enter it. A row's text does not depend on
the other rows, except through the last bits of its logits. `generate` answers a known list of prompts; the server
adds prompts at any time (`trice.models.continuous_batch`). Beam search is in `trice.models.beams`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from trice.models.batching import EncodedPrompt, admit
from trice.models.beams import BeamSearch
from trice.models.call_blocker import TokenBlocker
from trice.models.continuous_batch import ContinuousBatch, DecodingSettings
from trice.models.decoder_check import checked_decoder
from trice.models.engine import Deliver, Failure, Finish, Generated, GenerationSettings, Prompt, too_long
from trice.models.local import LocalModel
from trice.models.sampling import Sampling


class TransformersEngine:
    """A transformers model on this machine. `batch_size` counts rows: prompts × samples or beams."""

    def __init__(self, loaded: LocalModel, batch_size: int = 128) -> None:
        self.loaded, self.batch_size = loaded, batch_size

    def generate(
        self, prompts: Sequence[Prompt], settings: GenerationSettings, deliver: Deliver
    ) -> list[Failure]:
        """Answer every prompt. A prompt that fills the model's context fails."""
        tokenizer, limit = self.loaded.tokenizer, self.loaded.context - 1
        encoded = [settings.encode_prompt(tokenizer, prompt) for prompt in prompts]
        fitting = [number for number, ids in enumerate(encoded) if len(ids) <= limit]
        entries = [
            EncodedPrompt(encoded[number], prompts[number].key, prompts[number].samples) for number in fitting
        ]
        suppress = settings.call_blocker(tokenizer) if settings.forbidden_tools else None
        for index, found in generate(
            self.loaded,
            entries,
            settings.sampling,
            settings.finish,
            batch_size=self.batch_size,
            suppress=suppress,
        ):
            shortened = {
                sample: settings.drop_redundant_tokens(tokenizer, each) for sample, each in found.items()
            }
            deliver(fitting[index], shortened)
        return [too_long(number, len(ids), limit) for number, ids in enumerate(encoded) if len(ids) > limit]


@torch.inference_mode()
def generate(
    loaded: LocalModel,
    prompts: Sequence[EncodedPrompt],
    sampling: Sampling,
    finish: Finish = lambda text, checked: None,
    *,
    batch_size: int = 128,
    suppress: TokenBlocker | None = None,
) -> Iterator[tuple[int, dict[int, Generated]]]:
    """Yield (number of the prompt, finished samples of it by their numbers) in the order in which they finish.

    A response ends at the model's end token, where `finish` returns it, after `max_new_tokens`, or at the end
    of the model's context. `suppress` returns the tokens that may not follow a text.

    Raises:
        TriceError: The model cannot generate in batches.
    """
    if not prompts:
        return
    order = sorted(range(len(prompts)), key=lambda number: (-len(prompts[number].ids), number))
    with checked_decoder(loaded, [prompt.ids for prompt in prompts]) as decoder:
        if sampling.beams > 1:
            search = BeamSearch(loaded, decoder, sampling, finish, suppress)
            yield from search.run(prompts, order, batch_size)
        else:
            batch = ContinuousBatch(loaded, decoder)
            yield from _run(batch, prompts, order, DecodingSettings(sampling, finish, suppress), batch_size)


def _run(
    batch: ContinuousBatch,
    prompts: Sequence[EncodedPrompt],
    order: Sequence[int],
    settings: DecodingSettings,
    size: int,
) -> Iterator[tuple[int, dict[int, Generated]]]:
    """Answer prompts in order, with at most `size` rows at a time. Samples of one prompt that finish in the
    same step are yielded together."""
    waiting, counts = list(reversed(order)), [len(prompt.samples) for prompt in prompts]
    while waiting or len(batch):
        for number in admit(waiting, counts, size, len(batch)):
            batch.add(number, prompts[number], settings)
        found: dict[int, dict[int, Generated]] = {}
        for row in batch.step():
            if row.text is not None:
                found.setdefault(row.owner, {})[row.sample] = row.generated
        yield from found.items()


def complete(
    loaded: LocalModel, prompts: Sequence[Sequence[int]], sampling: Sampling, finish: Finish
) -> list[str]:
    """One text for each prompt, in the order of the prompts."""
    texts = [""] * len(prompts)
    for number, found in generate(loaded, [EncodedPrompt(prompt) for prompt in prompts], sampling, finish):
        texts[number] = found[0].text
    return texts
