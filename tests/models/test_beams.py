"""Beam search: what the model's own search gives one prompt at a time, ended where a text is over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trice.errors import InputError
from trice.models.batching import EncodedPrompt
from trice.models.generation import generate
from trice.models.local import LocalModel, load
from trice.models.sampling import Sampling

PROMPTS = [[1, 70, 80], [1, 70, 81, 90, 100, 101], [1, 200]]
SEARCH = Sampling(max_new_tokens=6, beams=4, samples=2)


def searched(
    loaded: LocalModel, prompts: list[list[int]], sampling: Sampling, *args: Any, **options: Any
) -> Any:
    """The texts of each prompt's best beams."""
    asked = [EncodedPrompt(prompt, samples=tuple(range(sampling.samples))) for prompt in prompts]
    found = dict(generate(loaded, asked, sampling, *args, **options))
    return [[found[number][sample].text for sample in ask.samples] for number, ask in enumerate(asked)]


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_batch_of_beams_is_the_models_own_search_prompt_by_prompt(
    tiny_model: Callable[[str], Path], family: str
) -> None:
    loaded = load(str(tiny_model(family)), device="cpu", dtype="float32")
    found = searched(loaded, PROMPTS, SEARCH)
    for place, prompt in enumerate(PROMPTS):
        tokens = torch.tensor([prompt])
        alone = loaded.model.generate(
            tokens, attention_mask=torch.ones_like(tokens), num_beams=4, num_return_sequences=2, max_new_tokens=6,
            do_sample=False, pad_token_id=loaded.tokenizer.pad_token_id, eos_token_id=sorted(loaded.eos_ids),
        )[:, len(prompt) :]  # fmt: skip
        assert found[place] == loaded.tokenizer.batch_decode(alone, skip_special_tokens=True)


def test_a_beam_ends_where_it_is_over_and_never_writes_what_is_suppressed(
    tiny_model: Callable[[str], Path],
) -> None:
    loaded = load(str(tiny_model("llama")), device="cpu", dtype="float32")
    whole = searched(loaded, PROMPTS[:1], SEARCH)
    assert len(whole[0][0]) > 2
    cut = searched(loaded, PROMPTS[:1], SEARCH, lambda text, seen: text[:1] if text else None)
    assert cut == [[text[:1] for text in whole[0]]]
    first = loaded.tokenizer(whole[0][0], add_special_tokens=False)["input_ids"][0]
    other = searched(loaded, PROMPTS[:1], SEARCH, suppress=lambda _: [first])
    assert all(loaded.tokenizer.decode([first]) not in text for text in other[0])


def test_more_samples_than_beams_are_refused() -> None:
    with pytest.raises(InputError, match="samples=3 needs at least as many beams"):
        Sampling(beams=2, samples=3)
