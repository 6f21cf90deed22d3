"""Models of known shapes with random weights, and a tokenizer for them: what the phases measure needs no download.

The tokenizer cuts text about as Llama's does (single digits, words of up to 8 letters with their space), so that
prompts have the published lengths; its vocabulary is filled up to the model's size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from trice.models.local import LocalModel

LLAMA_7B = {
    "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 2048,
}  # fmt: skip
LLAMA_1B = {
    "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}  # fmt: skip
SMALL = {  # heads of 7B's width, for exactness
    "vocab_size": 4096, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048, "initializer_range": 0.1,
}  # fmt: skip
TINY = {
    "vocab_size": 2048, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 2048,
}  # fmt: skip
END = 2


@dataclass(frozen=True)
class Machine:
    """Where and how large a phase runs; `carried` is the folder with what travelled along."""

    device: torch.device
    tiny: bool
    carried: Path

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def reset_peak(self) -> int:
        """Bytes in use now, from which `peak` counts; 0 on a CPU, whose memory is not measured here."""
        if self.device.type != "cuda":
            return 0
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else 0

    def profile(self, work: Callable[[], Any], count: int = 12) -> dict[str, Any]:
        """Where the time of `work` goes: the share of the wall time in which the device is busy, and the kernels
        (on a CPU, the operators) that take most of it, each as a share of the busy time."""
        from torch.profiler import ProfilerActivity, profile

        on_gpu = self.device.type == "cuda"
        with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as trace:
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            wall = time.perf_counter() - start
        found = trace.key_averages()
        spent = {
            each.key: (each.self_device_time_total if on_gpu else each.self_cpu_time_total) / 1e6
            for each in found
        }
        busy = sum(spent.values())
        most = sorted(spent.items(), key=lambda pair: -pair[1])[:count]
        calls = {each.key: each.count for each in found}
        return {
            "wall_s": round(wall, 4), "busy": round(busy / wall, 3), "launches": sum(calls.values()),
            "kernels": [
                {"name": name[:110], "share": round(took / busy, 3), "calls": calls[name]} for name, took in most
            ],
        }  # fmt: skip


class Skipped(Exception):
    """A part that cannot be measured here, and why."""


def load_shape(
    shape: dict[str, Any], dtype: torch.dtype, device: torch.device, texts: Sequence[str]
) -> LocalModel:
    """A Llama of this shape with random weights, made on the device."""
    config = LlamaConfig(**shape, bos_token_id=1, eos_token_id=END, pad_token_id=0)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.generation_config.eos_token_id = END
    return LocalModel("random", model.eval(), tokenizer(shape["vocab_size"], tuple(texts)), device)


@cache
def tokenizer(size: int, texts: tuple[str, ...]) -> Any:
    """Words of these texts and as many made-up ones as fill the vocabulary."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    cut = pre_tokenizers.Split(Regex(r" ?[A-Za-z]{1,8}|[0-9]| ?[^\sA-Za-z0-9]+|\s+"), "isolated")
    words = {piece for text in texts for piece, _ in cut.pre_tokenize_str(text)}
    names = ["<pad>", "<s>", "</s>", "<unk>", *sorted(words)]
    assert len(names) <= size, f"{len(names)} words do not fit into a vocabulary of {size}"
    names += [f" w{number}" for number in range(len(names), size)]
    made = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = cut, decoders.Fuse()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@cache
def prompt_texts(count: int) -> tuple[str, ...]:
    """The paper's prompts of so many questions of the starter set: template alpaca, the math instruction. The last
    text is of calls."""
    from trice.datasets import load
    from trice.formats.prompt import load_template
    from trice.tasks.instructions import MATH as INSTRUCTION

    rows = load("starter", train=count, test=1).train
    calls = " ".join(f"calculator({(row.model_extra or {})['expression']})" for row in rows)
    return (*(load_template("alpaca").text(INSTRUCTION, row.input) for row in rows), calls)
