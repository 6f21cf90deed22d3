"""Prompts longer than the model's context are named and left out, others are answered; a chat template's end of
turn and its arguments; several samples of `trice generate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from families import save, tokenizer
from tiny import command, read, sums, training, write
from trice.errors import InputError
from trice.formats.prompt import load_template
from trice.models.local import context_length, load

CPU = ["--device", "cpu", "--dtype", "float32"]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def short(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 64 positions."""
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    folder, made = tmp_path_factory.mktemp(request.param), tokenizer("qwen")
    made.save_pretrained(folder)
    ends = {"bos_token_id": 0, "eos_token_id": made.eos_token_id}
    torch.manual_seed(0)
    config: Any
    if request.param == "gpt2":
        config = GPT2Config(vocab_size=len(made), n_positions=64, n_embd=32, n_layer=1, n_head=2, **ends)
    else:
        config = LlamaConfig(
            vocab_size=len(made), max_position_embeddings=64, hidden_size=32, intermediate_size=32,
            num_hidden_layers=1, num_attention_heads=2, **ends,
        )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("beams", [1, 2])
def test_a_prompt_longer_than_the_context_is_left_out(
    short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], beams: int
) -> None:
    rows = read(sums(tmp_path / "S.json", 3))
    rows[1]["question"] = "What is 1 and 7? " * 30
    data, output = write(tmp_path / "in.json", rows), tmp_path / "out.json"
    words = ["generate", "--model", short, "--data", data, "--output", output, "--beams", beams, *CPU]
    code, out, lines = command(capsys, *words, "--max-new-tokens", 200)  # more than there is room for
    assert code == 0, lines
    assert [row["id"] for row in read(output)] == ["S_0", "S_2"]
    assert out == f"2 responses in {output}\n"
    assert any("in.json:2" in line and "the prompt is too long: it has" in line for line in lines)
    assert any("1 rows failed" in line for line in lines), lines


def test_training_leaves_out_what_is_longer_than_the_context(
    short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["1?", "2? " * 60, "3?"]
    rows = [
        {"id": str(n), "instruction": "Add.", "input": text, "output": "5", "answer": "5"}
        for n, text in enumerate(texts)
    ]
    words = training("clone", short, write(tmp_path / "in.json", rows), tmp_path / "adapter")
    target = "c_attn" if "gpt2" in str(short) else "q_proj"
    code, _, lines = command(capsys, *words, f'lora.target_modules=["{target}"]')
    assert code == 0, lines
    assert any("left out 1 of 3 questions longer than 64 tokens" in line for line in lines)


def test_the_context_of_scaled_rotary_embeddings() -> None:
    from transformers import LlamaConfig, MistralConfig

    assert context_length(MistralConfig(max_position_embeddings=512, sliding_window=8)) == 512
    scaled = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256, "rope_theta": 1e4}
    assert context_length(LlamaConfig(max_position_embeddings=256, rope_parameters=scaled)) == 1024
    wide = {
        "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 256, "rope_theta": 1e4,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    }  # fmt: skip
    assert context_length(LlamaConfig(max_position_embeddings=2048, rope_parameters=wide)) == 2048


@pytest.mark.parametrize(
    ("kind", "end"), [("qwen", "<|im_end|>"), ("gemma", "<end_of_turn>"), ("mistral", "</s>"), ("glm", None)]
)
def test_a_chat_response_ends_as_the_chat_template_ends_a_turn(kind: str, end: str | None) -> None:
    made = tokenizer(kind)
    expected = made.eos_token_id if end is None else made.convert_tokens_to_ids(end)
    assert load_template("chat").encode_response(made, "5")[-1] == expected
    assert load_template("plain").encode_response(made, "5")[-1] == made.eos_token_id


def test_generation_stops_at_the_end_of_a_turn(tmp_path: Path) -> None:
    loaded = load(str(save("gemma3", tmp_path / "model")), device="cpu", dtype="float32")
    made = loaded.tokenizer
    assert made.convert_tokens_to_ids("<end_of_turn>") in loaded.eos_ids
    assert made.eos_token_id in loaded.eos_ids


def test_arguments_of_a_chat_template() -> None:
    made = tokenizer("qwen")
    made.chat_template += (
        "{% if not enable_thinking|default(true) %}<think></think>{% endif %}{{ effort|default('') }}"
    )
    quiet, plain = load_template("chat:enable_thinking=false,effort=low"), load_template("chat")
    assert quiet.text("Add.", "1?", tokenizer=made) == plain.text("Add.", "1?", tokenizer=made) + (
        "<think></think>low"
    )
    assert quiet.chat_template_kwargs == {"enable_thinking": False, "effort": "low"}
    assert quiet.sha256 != plain.sha256
    with pytest.raises(InputError, match="'oops' is not an argument; write chat:enable_thinking=false"):
        load_template("chat:oops")


def test_an_adapter_records_the_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from trice.models.adapters import adapter_record, training_record

    rows = [{"id": "a", "instruction": "Add.", "input": "1?", "output": "5", "answer": "5"}]
    words = training(
        "clone", save("qwen2", tmp_path / "m"), write(tmp_path / "in.json", rows), tmp_path / "a"
    )
    code, _, lines = command(capsys, *words, "--template", "chat:enable_thinking=false")
    assert code == 0, lines
    assert training_record(tmp_path / "a")["template"] == "chat:enable_thinking=false"
    assert adapter_record(tmp_path / "a").prompt_template().chat_template_kwargs == {"enable_thinking": False}


def test_generate_takes_samples(
    tmp_path: Path, tiny_model: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.json"
    words = ["generate", "--model", tiny_model("llama"), "--data", sums(tmp_path / "S.json", 2), *CPU]
    words += ["--output", output, "--samples", 3, "--temperature", 1.0, "--max-new-tokens", 8]
    code, out, lines = command(capsys, *words)
    assert (code, out) == (0, f"6 responses in {output}\n"), lines
    assert [(row["id"], row["sample"]) for row in read(output)] == [
        (f"S_{q}", s) for q in (0, 1) for s in (0, 1, 2)
    ]
    assert len({row["response"] for row in read(output)}) > 1
