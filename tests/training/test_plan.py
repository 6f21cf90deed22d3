"""The planner: what it counts, that it needs no weights, what it flags, what it advises."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tiny import command, read_settings, training, write
from trice.errors import InputError
from trice.models.local import load_base
from trice.training.capacity import Capacity, capacity, free_memory
from trice.training.dry_run import Plan, plan
from trice.training.lora import with_lora
from trice.training.memory_estimate import QUANTIZED, estimate_memory
from trice.training.packed_forward import PackedForward
from trice.training.packing import ResponseTokens, TokenizedExample, pack
from trice.training.settings import Clone, Lora, Rlef

CPU = {"device": "cpu", "dtype": "float32"}
PLENTY = Capacity(memory=10**12, rate=1e11)


@pytest.fixture(scope="module")
def llama(tiny_model: Callable[[str], Path]) -> str:
    return str(tiny_model("llama"))


def question(prompt: list[int], *responses: list[int]) -> TokenizedExample:
    return TokenizedExample(
        prompt, [ResponseTokens(ids, [True] * len(ids)) for ids in responses], [0.0] * len(responses)
    )


def questions(count: int, length: int = 30) -> list[TokenizedExample]:
    """Questions of `length` + 5 tokens that share their first alone."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 320, (count, length + 5), generator=draw).tolist()
    return [question([1, *row[: length - 1]], row[length:]) for row in ids]


def planned(
    model: str, examples: list[TokenizedExample], settings: Clone, machine: Capacity = PLENTY, **how: Any
) -> Plan:
    return plan(lambda tokenizer: examples, model, None, settings, machine=machine, **(CPU | how))


def test_tokens_worked_out_by_hand(llama: str) -> None:
    examples = [question([1, 5, 6], [7, 8, 2], [7, 9, 2]), question([1, 5, 4], [7, 2])]
    made = planned(llama, examples, Rlef(batch_size=2, num_train_epochs=3))
    assert (made.questions, made.responses) == (2, 3)
    # Three responses as sequences of 6, the longest. Read are 1 5 6 7 8, 1 5 6 7 9 and 1 5 4 7; as a tree: 1 5,
    # then 6 7 8 and 9, then 4 7. Predicted from 6, 7, 8 and 9, and from 4 and 7.
    assert made.tokens == (18, 8, 8, 6, 1)
    assert (made.steps_per_epoch, made.steps) == (1, 3)
    alone = planned(llama, examples, Rlef(batch_size=1, num_train_epochs=3, max_steps=4))
    # Batches of their own share nothing: 6 + 4 tokens; 2 sequences of 6 and one of 5.
    assert alone.tokens == (17, 10, 8, 6, 2)
    assert (alone.steps_per_epoch, alone.steps) == (2, 4)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "glm4", "qwen2", "qwen3", "gpt_neox"])
def test_parameters_are_those_of_the_loaded_model(tiny_model: Callable[[str], Path], family: str) -> None:
    model, lora = str(tiny_model(family)), Lora(r=3)
    made = planned(model, questions(2), Clone(lora=lora))
    loaded = load_base(model, **CPU)
    assert made.parameters == loaded.model.num_parameters()
    assert made.memory
    tensors = [*loaded.model.parameters(), *loaded.model.buffers()]
    assert made.memory.weights == sum(each.numel() * each.element_size() for each in tensors)
    trained = [each for each in with_lora(loaded, None, lora, 0).parameters() if each.requires_grad]
    assert made.trainable == sum(each.numel() for each in trained)


def test_an_adapter_brings_its_own_lora(llama: str, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    with_lora(load_base(llama, **CPU), None, Lora(r=5, target_modules=["o_proj"]), 0).save_pretrained(adapter)
    made = plan(lambda tokenizer: questions(2), llama, adapter, Rlef(), machine=PLENTY, **CPU)
    assert made.trainable == 2 * 5 * (32 + 32)  # of two layers, in and out


def test_no_weights_are_needed(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    source = tiny_model("qwen2")
    model = tmp_path / source.name
    model.mkdir()
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (model / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InputError, match="cannot be loaded"):
        load_base(str(model), **CPU)
    made = planned(str(source), questions(2), Clone())
    assert planned(str(model), questions(2), Clone()) == replace(made, model=str(model))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_operations_are_those_of_the_real_pass(
    tiny_model: Callable[[str], Path], checkpointing: bool
) -> None:
    """In eager mode, whose attention is of plain products, which PyTorch's own counter sees."""
    examples, lora = questions(3), Lora(r=2, lora_dropout=0)
    loaded = load_base(str(tiny_model("gemma2")), **CPU)
    real, packed = with_lora(loaded, None, lora, 0), pack(examples, "mask")
    forward = PackedForward(real, examples)
    assert forward.strategy.layout == "mask"
    real.train()
    if checkpointing:
        real.gradient_checkpointing_enable({"use_reentrant": False})
    with forward, FlopCounterMode(display=False) as counter:
        forward(packed).sum().backward()
    head = loaded.model.get_output_embeddings().weight.numel()
    empty = load_base(str(tiny_model("gemma2")), **CPU, empty=True)
    with torch.device("meta"):
        policy = with_lora(empty, None, lora, 0)
    cost = estimate_memory(
        policy, examples, "mask", torch.device("cpu"), gradient_checkpointing=checkpointing
    )
    # Of the head's two products it sees one: the other is in place.
    assert cost.operations + 2 * len(packed.source_M) * head == counter.get_total_flops()


def peak(model: str, settings: Clone, **how: Any) -> int:
    memory = planned(model, questions(40), settings, **how).memory
    assert memory
    return memory.peak - memory.program


def test_memory_grows_and_shrinks_with_what_bounds_it(llama: str) -> None:
    small, large = (peak(llama, Clone(token_budget=budget)) for budget in (256, 1024))
    assert peak(llama, Clone(token_budget=64)) < small < large < 5 * small
    twice = peak(llama, Clone(token_budget=1024, gradient_checkpointing=True))
    assert small < twice < large
    assert peak(llama, Clone(token_budget=1024), dtype="bfloat16") < large
    assert peak(llama, Clone(token_budget=1024, lora=Lora(r=32))) > large
    one, two = (planned(llama, questions(40), Clone(), Capacity(10**12, 1e11, n)) for n in (1, 2))
    assert one.memory
    assert two.memory
    assert two.tokens.parts == 2
    assert two.memory.activations < one.memory.activations
    assert two.memory.lora == one.memory.lora * 5 / 4


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_quantised_linear_layers_count_at_their_size(llama: str, kind: str) -> None:
    pytest.importorskip("bitsandbytes")
    whole = planned(llama, questions(2), Clone(), dtype="bfloat16").memory
    less = planned(llama, questions(2), Clone(quantize=kind), dtype="bfloat16").memory
    assert whole
    assert less
    # Of both layers queries and outputs of 32 × 32, keys and values of 32 × 16, three of 32 × 48 in the MLP.
    weights = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
    assert whole.weights - less.weights == pytest.approx(weights * (2 - QUANTIZED[kind]), abs=1)


def test_settings_that_make_no_sense_are_named(llama: str) -> None:
    examples = [*questions(3), *questions(2, length=100)]
    settings = Clone(max_length=60, batch_size=4, max_steps=5, warmup_steps=5, eval_steps=6)
    assert planned(llama, examples, settings).warnings == [
        "max_length=60 leaves out 2 of 5 questions",
        "batch_size=4 is more than the 3 questions: each epoch is one step",
        "warmup_steps=5 covers all 5 steps: the learning rate never reaches 0.0001",
        "eval_steps=6 is more than the 5 steps: there is only one checkpoint to choose",
    ]
    good = Clone(max_length=105, batch_size=5, max_steps=5, warmup_steps=4, eval_steps=5)
    assert planned(llama, examples, good).warnings == []
    with pytest.raises(InputError, match="max_length 20: every question is longer"):
        planned(llama, examples, Clone(max_length=20))


def test_what_is_advised_fits(llama: str) -> None:
    settings, examples = Clone(token_budget=2048), questions(16, length=200)

    def advice(free: int) -> list[str]:
        """The settings it would do with, which are then shown to do."""
        machine = Capacity(free, 1e11)
        text = planned(llama, examples, settings, machine).advice
        assert text.startswith("does not fit: it takes about")
        changes = re.findall(r"(\w+=\w+)", text)
        changed = read_settings(Clone, ["token_budget=2048", *changes])
        assert not changes or planned(llama, examples, changed, machine).advice == ""
        return [each.partition("=")[0] for each in changes]

    def needed(**changes: Any) -> int:
        memory = planned(llama, examples, Clone(**changes)).memory
        assert memory
        return memory.peak

    assert planned(llama, examples, settings, Capacity(needed(token_budget=2048), 1e11)).advice == ""
    assert advice(needed(token_budget=2048) - 1) == ["token_budget"]
    assert advice(needed(token_budget=512)) == ["token_budget"]
    assert advice(needed(token_budget=64) - 1) == ["gradient_checkpointing", "token_budget"]
    assert advice(1) == []


def lessons(folder: Path) -> Path:
    rows = [{"instruction": "Solve.", "input": f"What is {i} and 7?", "output": str(i + 7)} for i in range(6)]
    return write(folder / "math.json", rows)


def test_the_command_prints_and_writes_nothing(
    llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "clone", "--model", llama, "--data", lessons(tmp_path), "--output", tmp_path / "run"]
    code, out, errors = command(capsys, *words, "--device", "cpu", "--dtype", "float32", "--dry-run")
    assert (code, errors) == (0, [])
    names = [line.split("  ")[0] for line in out.splitlines()]
    assert names[:5] == ["model", "LoRA", "data", "tokens", "output head"]
    assert "6 questions, 6 responses" in out
    assert "! batch_size=1024 is more than the 6 questions: each epoch is one step" in out
    assert not (tmp_path / "run").exists()


def test_the_command_fails_where_it_cannot_fit(
    llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"query": f"What is {i} and 7?", "responses": ["1", "2"], "scores": [20.0, 0.0], "origin": ["gold", "m"]}
        for i in range(3)
    ]  # fmt: skip
    data = write(tmp_path / "ranked.json", rows)
    monkeypatch.setattr("trice.training.capacity.free_memory", lambda: 1000)
    words = training("rlef", llama, data, tmp_path / "run")
    code, out, errors = command(capsys, *words, "--objective", "grpo", "--sft", 0, "--dry-run")
    assert code == 2
    assert "3 questions, 6 responses" in out
    assert len(errors) == 1
    assert errors[0].startswith("trice: does not fit: it takes about")
    assert not (tmp_path / "run").exists()


def test_free_memory_is_what_the_system_and_the_groups_around_leave(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"

    def put(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    assert free_memory(proc, groups) is None
    put(proc / "meminfo", "MemTotal:  9000 kB\nMemAvailable:   1000 kB\n")
    assert free_memory(proc, groups) == 1_024_000
    put(proc / "self" / "cgroup", "0::/jobs/one\n")
    put(groups / "jobs" / "one" / "memory.max", "max\n")
    put(groups / "jobs" / "one" / "memory.current", "1\n")
    assert free_memory(proc, groups) == 1_024_000
    put(groups / "jobs" / "memory.max", "500000\n")
    put(groups / "jobs" / "memory.current", "400000\n")
    put(groups / "jobs" / "memory.stat", "anon 300000\ninactive_file 60000\nactive_file 40000\n")
    assert free_memory(proc, groups) == 200_000
    put(proc / "self" / "cgroup", "3:cpu:/a\n5:memory:/old\n")
    put(groups / "memory" / "old" / "memory.limit_in_bytes", "70000\n")
    put(groups / "memory" / "old" / "memory.usage_in_bytes", "80000\n")
    put(groups / "memory" / "old" / "memory.stat", "inactive_file 0\nactive_file 0\n")
    assert free_memory(proc, groups) == 0


def test_processes_share_a_machines_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trice.training.capacity.free_memory", lambda: 1200)
    monkeypatch.setenv("WORLD_SIZE", "6")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    found = capacity(torch.device("cpu"), torch.float32)
    assert (found.memory, found.processes) == (400, 6)
    assert found.rate > 1e8
