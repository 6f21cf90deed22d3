"""SmolLM2 135M Instruct, the second embedded model, as it is converted from the wheel's GGUF file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from plainly import objective
from test_packing import some_examples
from transformers import AutoModelForCausalLM

from real import real_chat_model
from trice.models.embedded import SMOLLM2, _installed
from trice.models.generation import complete
from trice.models.local import LocalModel, load
from trice.models.sampling import Sampling
from trice.training.packed_forward import PackedForward, PackingStrategy
from trice.training.settings import Rlef
from trice.training.trainer import loss_sums

pytestmark = [pytest.mark.slow, real_chat_model]
QUESTIONS = ("What is the capital of France?", "Tom has 3 apples and buys 14. How many?", "1.\n\n  25 + 17 =")


@pytest.fixture(scope="module")
def smollm2() -> LocalModel:
    return load("smollm2-135m-instruct", device="cpu", dtype="float32")


def prompts(tokenizer: object) -> list[list[int]]:
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    return tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=True)["input_ids"]  # type: ignore


def greedy(model: object, prompt: list[int]) -> list[int]:
    """The new tokens of transformers' own `generate`."""
    tokens = torch.tensor([prompt])
    out = model.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=8)  # type: ignore
    return out[0, len(prompt) :].tolist()


def test_it_answers_in_its_chat_template(smollm2: LocalModel) -> None:
    tokenizer = smollm2.tokenizer
    ids = prompts(tokenizer)
    assert tokenizer.decode(ids[0]).endswith(
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert smollm2.eos_ids == {tokenizer.convert_tokens_to_ids("<|im_end|>")}
    texts = complete(smollm2, ids, Sampling(8), lambda text, checked: None)
    assert texts[0] == "The capital of France is Paris."
    assert texts == [
        tokenizer.decode(greedy(smollm2.model, prompt), skip_special_tokens=True) for prompt in ids
    ]


def test_numbers_are_split_into_digits_as_by_the_original_tokenizer(smollm2: LocalModel) -> None:
    assert smollm2.tokenizer.tokenize("x\n\n  120") == ["x", "ĊĊĠĠ", "1", "2", "0"]


def test_the_packed_forward_gives_the_loss_of_the_plain_model(smollm2: LocalModel) -> None:
    examples, settings = some_examples(), Rlef(alpha=0.5, margin=0.2)
    with torch.no_grad():
        expected = objective(smollm2.model, examples, settings.alpha, settings.margin)
        forward = PackedForward(smollm2.model, examples)
        assert forward.strategy == PackingStrategy("blocks")
        packed = forward.pack(examples)
        part = loss_sums(forward(packed), packed, settings)
    assert settings.alpha * part.rank / part.questions + part.sft / part.tokens == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_the_converted_model_is_the_one_that_transformers_reads(smollm2: LocalModel, tmp_path: Path) -> None:
    if not _installed(SMOLLM2.packages):
        pytest.skip("the wheel is not installed")
    (gguf,) = SMOLLM2._parts(tmp_path)
    original = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        config=smollm2.model.config,  # without it the slow reader of GGUF reads the file twice
        dtype=torch.float32,
    ).eval()
    for prompt in prompts(smollm2.tokenizer):
        tokens = torch.tensor([prompt])
        with torch.no_grad():
            assert torch.equal(original(tokens).logits, smollm2.model(tokens).logits)
    assert greedy(original, prompt) == greedy(smollm2.model, prompt)
