"""What other machines do otherwise than this one: half precision, and the strides that a GPU's kernels give."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_decoding import Spelled
from transformers import AutoModelForCausalLM

import families
from trice.models.batching import EncodedPrompt
from trice.models.generation import generate
from trice.models.local import LocalModel, load
from trice.models.sampling import Sampling
from trice.training import packed_forward
from trice.training.packed_forward import PackedForward, PackingStrategy
from trice.training.packing import ResponseTokens, TokenizedExample, pack

DEEP = {"num_hidden_layers": 32, "initializer_range": 1.0}


def numbers(length: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(3, 300) for _ in range(length)]


def made(family: str, **changes: Any) -> LocalModel:
    config = families.config(family, _Ids())
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    return LocalModel("random", model.eval(), Spelled(), torch.device("cpu"))


class _Ids:
    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

    def __len__(self) -> int:
        return 312


def examples(seed: int = 1) -> list[TokenizedExample]:
    responses = [ResponseTokens(numbers(length, seed + length), [True] * length) for length in (9, 5)]
    return [TokenizedExample(numbers(20, seed), responses, [1.0, 0.0])]


def written(loaded: LocalModel, prompts: list[list[int]], tokens: int = 6) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in prompts]
    asked = [EncodedPrompt(ids, str(number)) for number, ids in enumerate(prompts)]
    for number, samples in generate(loaded, asked, Sampling(tokens)):
        found[number] = list(samples[0].tokens or [])
    return found


def test_a_deep_model_whose_rounding_is_far_from_exact_writes_and_trains_in_half_precision() -> None:
    """Its logits in bfloat16 depend on the order of sums by 10 to 60% of their spread, from prompt to prompt."""
    loaded = made("llama", **DEEP)
    for seed in range(6):
        loaded.use_model_head = None
        assert len(written(loaded, [numbers(20, seed)])[0]) == 6
        assert loaded.use_model_head is False
        forward = PackedForward(made("llama", **DEEP).model, examples(seed))
        assert forward.strategy == PackingStrategy("blocks")


def test_a_head_that_scales_logits_by_little_is_found_in_half_precision() -> None:
    """5% lie within what rounding alone may do to logits after all layers."""
    loaded = made("granite", logits_scaling=0.95)
    assert written(loaded, [numbers(20, 0)])[0]
    assert loaded.use_model_head is True
    forward = PackedForward(made("granite", logits_scaling=0.95).model, examples())
    assert forward.strategy == PackingStrategy("blocks", model_head=True)


def test_attention_of_its_own_is_found_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that adds a term of its own to its attention's output is not run in a way that leaves it out."""
    loaded = made("llama")
    for layer in loaded.model.model.layers:
        attend = layer.self_attn.forward

        def own(*args: Any, attend: Any = attend, **options: Any) -> Any:
            output, weights = attend(*args, **options)
            return output + (0 if "shared" in options else 0.5), weights

        monkeypatch.setattr(layer.self_attn, "forward", own)
    with pytest.raises(Exception, match=r"cannot generate in batches \(its logits differ"):
        written(loaded, [numbers(20, 0)])


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3"])
def test_attention_that_comes_in_other_strides_changes_nothing(
    family: str, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU scaled_dot_product_attention returns tokens before heads in memory."""

    def results() -> tuple[list[list[int]], torch.Tensor]:
        loaded = load(str(tiny_model(family)), device="cpu", dtype="float32")
        loaded.tokenizer = Spelled()
        found = written(loaded, [numbers(length, length) for length in (12, 7, 12)])
        logps_N = PackedForward(loaded.model, examples())(pack(examples()))
        logps_N.sum().backward()
        return found, logps_N.detach()

    expected = results()
    plain = F.scaled_dot_product_attention

    def strided(*args: Any, **options: Any) -> torch.Tensor:
        return plain(*args, **options).transpose(1, 2).contiguous().transpose(1, 2)

    monkeypatch.setattr(F, "scaled_dot_product_attention", strided)
    tokens, logps_N = results()
    assert tokens == expected[0]
    torch.testing.assert_close(logps_N, expected[1])


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_gradients_gathered_by_a_sparse_product_are_the_same(
    family: str, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On NVIDIA GPUs keys are gathered so, from blocks that share what comes before them."""
    several = [
        TokenizedExample(numbers(150, 0) + numbers(6, seed), examples(seed)[0].responses, [1.0, 0.0])
        for seed in range(3)
    ]

    def gradient() -> torch.Tensor:
        model = load(str(tiny_model(family)), device="cpu", dtype="float32").model.double()
        PackedForward(model, several)(pack(several)).sum().backward()
        return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])

    expected = gradient()
    used = []
    monkeypatch.setattr(packed_forward, "multiplies_sparse", lambda device: used.append(device) is None)
    torch.testing.assert_close(gradient(), expected, rtol=1e-9, atol=1e-12)
    assert used
