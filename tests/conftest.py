"""Shared by all tests: tiny random models of several families, each with a tokenizer trained on the spot.

No test reaches the network: the hub client is told so before anything imports it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import families
from browser import browse as browse
from browser import chromium as chromium

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# A shell starts jobs in the background with Ctrl-C ignored, and their children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


LONG = (
    "test_tutorial", "test_demo", "test_identity", "test_ray", "test_scale", "test_processes", "test_run",
    "test_playground", "test_trainer", "test_validation", "test_page", "test_serve", "test_gpu_benchmark",
    "test_api", "test_report", "test_families", "test_smollm2", "test_decoding", "test_mix_run", "test_own",
    "test_plan", "test_mcp", "test_limits", "test_wikisearch",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, so that no process waits for one at the end."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


def _tokenizer() -> Any:
    """Byte-level BPE of 320 tokens that opens every text with `<bos>`; pad and end are different tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<bos>", "<eos>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(families.TEXT * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
    )
    names = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a model of a family and returns its folder, for `trice.models.local.load(str(folder))`."""

    @cache
    def make(family: str) -> Path:
        import torch
        from transformers import AutoModelForCausalLM

        tokenizer = _tokenizer()
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(families.config(family, tokenizer))
        folder = tmp_path_factory.mktemp(family) / f"tiny-{family}"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(params=["llama", "gemma2", "gemma3", "glm", "glm4", "qwen2", "qwen3", "mistral"])
def any_model(request: pytest.FixtureRequest, tiny_model: Callable[[str], Path]) -> Any:
    """A freshly loaded tiny model of each family in turn, in float32."""
    from trice.models.local import load

    return load(str(tiny_model(request.param)), device="cpu", dtype="float32")


@pytest.fixture
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports compose their figures but do not render them, which takes most of a report's time.

    A test marked `drawn` renders them all the same.
    """
    from trice.report import plot_style
    from trice.report.elements import Figure

    def figure(canvas: Any, name: str, caption: str) -> Figure:
        return Figure(name, caption, "<svg></svg>", b"")

    if request.node.get_closest_marker("drawn") is None:
        monkeypatch.setattr(plot_style, "figure", figure)


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let models that are made `.double()` compute all in float64.

    transformers takes norms and rotary angles to float32 whatever the model's dtype, which would hide a
    difference below 1e-7; within this fixture it gets float64 instead.
    """
    import torch

    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch, "float", torch.float64)
