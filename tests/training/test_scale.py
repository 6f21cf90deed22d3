"""Larger models: weights sharded among processes, quantised bases, half precision, gradient checkpointing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_processes import ranked, same, settings, words

from tiny import command, read, sums, write
from trice.errors import InputError
from trice.models.local import load, load_base
from trice.training.clone import clone
from trice.training.environment import check_machine
from trice.training.lora import with_lora
from trice.training.packed_forward import PackedForward, half_precision_autocast
from trice.training.packing import ResponseTokens, TokenizedExample
from trice.training.rlef import rlef
from trice.training.settings import Clone, Lora, Rlef

RECIPES = Path(__file__).parents[2] / "recipes" / "accelerate"
# Accelerate cuts weights up on GPUs alone; here it takes the CPU for one. All else is as on GPUs, gloo for NCCL.
ON_CPUS = """
import os
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

begin = AcceleratorState.__init__

def begin_as_on_gpus(self, *args, **kwargs):
    shared = PartialState._shared_state
    PartialState(cpu=True)
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        kwargs["cpu"] = False
    elif shared["distributed_type"] == DistributedType.MULTI_CPU:
        shared["distributed_type"] = DistributedType.MULTI_GPU
    begin(self, *args, **kwargs)

AcceleratorState.__init__ = begin_as_on_gpus

from transformers import TrainerCallback
from trice.training import trainer

class Witness(trainer.TrainingLog):
    def on_train_begin(self, args, state, control, model=None, **kwargs):
        cut = [hasattr(weight, "ds_id") or hasattr(weight, "placements") for weight in model.parameters()]
        if state.is_world_process_zero:
            print(f"{sum(cut)} of {len(cut)} cut up", PartialState().distributed_type.value)

trainer.TrainingLog = Witness

from trice.cli import main
main()
"""


@pytest.fixture
def base(tiny_model: Callable[[str], Path]) -> str:
    return str(tiny_model("llama"))


def labelled(path: Path) -> Path:
    rows = [
        {"instruction": "", "input": f"What is {i} and 7?", "output": f"calculator({i}+7)"} for i in range(6)
    ]
    return write(path, rows)


def launched(recipe: str, script: list[str], *words: object) -> subprocess.CompletedProcess[str]:
    """`accelerate launch` of a recipe in two processes."""
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu",
    }  # fmt: skip
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(RECIPES / recipe)]
    launch += ["--num_processes", "2", "--main_process_port", "0", *script]
    return subprocess.run(
        [*launch, *map(str, words)], env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("recipe", ["ddp.yaml", "fsdp.yaml", "deepspeed_zero2.yaml", "deepspeed_zero3.yaml"])
def test_two_processes_of_a_recipe_train_as_one_and_resume(base: str, tmp_path: Path, recipe: str) -> None:
    if recipe.startswith("deepspeed"):
        pytest.importorskip("deepspeed")
    data, one, several = ranked(tmp_path / "ranked.json"), tmp_path / "one", tmp_path / "several"
    (tmp_path / "on_cpus.py").write_text(ON_CPUS)
    rlef(data, one, base, settings=settings(Rlef), device="cpu", dtype="float32")
    script = ["-m", "trice"] if recipe == "ddp.yaml" else [str(tmp_path / "on_cpus.py")]
    how = ["train", "rlef", "--model", base, "--data", data, "--output", several, "--device", "cpu"]
    how += ["--dtype", "float32", *words()]
    done = launched(recipe, script, *how)
    assert done.returncode == 0, done.stderr
    if recipe in ("fsdp.yaml", "deepspeed_zero3.yaml"):
        found = next(line for line in done.stdout.splitlines() if "cut up" in line).split()
        assert found[0] == found[2]
        assert found[-1] in ("FSDP", "DEEPSPEED")
    same(one, several, atol=1e-5)
    if recipe == "ddp.yaml":
        return  # whole weights resume in test_processes
    before = load_file(several / "adapter_model.safetensors")
    # What a kill while the last checkpoint is written leaves.
    for path in [*several.glob("adapter*"), several / "checkpoint-4" / "trainer_state.json"]:
        path.unlink()
    assert launched(recipe, script, *how).returncode == 0
    after = load_file(several / "adapter_model.safetensors")
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


@pytest.mark.parametrize(
    ("recipe", "given", "why"),
    [
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "num_train_epochs=1", "fsdp_version: 2"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
            "num_train_epochs=1",
            "efficient_loading: false",
        ),
        ({"ACCELERATE_USE_FSDP": "true"}, "eval_steps=2", "eval_steps"),
        ({"ACCELERATE_USE_FSDP": "true"}, "objective=dpo", "objective=dpo"),
        (
            {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
            "eval_steps=2",
            "eval_steps",
        ),
    ],
)
def test_what_needs_whole_weights_is_refused(
    monkeypatch: pytest.MonkeyPatch, recipe: dict[str, str], given: str, why: str
) -> None:
    check_machine(settings(Rlef, given), "cpu")
    for name, value in recipe.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=why):
        check_machine(settings(Rlef, given), "cpu")


def test_zero_2_holds_whole_weights_and_validates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    check_machine(settings(Rlef, "eval_steps=2"), "cpu")


def examples() -> list[TokenizedExample]:
    draw = torch.Generator().manual_seed(0)

    def ids(length: int) -> list[int]:
        return torch.randint(3, 320, (length,), generator=draw).tolist()

    start = ids(6)
    return [
        TokenizedExample(
            start + ids(5), [ResponseTokens(r, [True] * len(r)) for r in (ids(4), ids(7))], [20.0, 5.0]
        ),
        TokenizedExample(
            start + ids(9), [ResponseTokens(r, [True] * len(r)) for r in (ids(3), ids(2))], [20.0, 5.0]
        ),
    ]


def gradients(model: Any, loss: Callable[[], torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of every trained weight, after one backward pass under a fixed seed."""
    model.zero_grad()
    torch.manual_seed(3)
    with half_precision_autocast(model.get_base_model()):
        loss().backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}


def plain(model: Any) -> torch.Tensor:
    """The mean log-probability of all response tokens, one sequence at a time, the plain way."""
    found = []
    for example in examples():
        for ids, _ in example.responses:
            logits = model(input_ids=torch.tensor([example.prompt + ids])).logits[0, -len(ids) - 1 : -1]
            found.append(logits.float().log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).squeeze(1))
    return torch.cat(found).mean()


def adapted(base: str, dropout: float = 0.0, **how: Any) -> Any:
    """A model with LoRA layers that do something."""
    loaded = load_base(base, device="cpu", **how)
    model = with_lora(loaded, None, Lora(r=4, lora_dropout=dropout, target_modules="all-linear"), 0)
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model


@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
def test_a_quantised_base_packed_gives_its_own_log_probabilities_and_gradients(
    base: str, quantize: str
) -> None:
    pytest.importorskip("bitsandbytes")
    model = adapted(base, dtype="float32", quantize=quantize)
    kinds = {type(module).__name__ for module in model.modules()}
    assert {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}[quantize] in kinds
    forward = PackedForward(model, examples())
    assert forward.strategy.layout == "blocks"
    packed = forward.pack(examples())
    for module in model.modules():
        if hasattr(module, "state"):  # no columns of 16 bits: which they are depends on all rows of a product
            module.state.threshold = 0.0
    with torch.no_grad():
        theirs, ours = plain(model), forward(packed).mean()
    # Products round in their last bits as the CPU's instructions have it, and an activation at the edge between two
    # of the 8-bit levels then falls on either side.
    exact = quantize == "4bit"
    assert float(ours) == pytest.approx(float(theirs), abs=1e-4 if exact else 5e-3)
    expected = gradients(model, lambda: plain(model))
    found = gradients(model, lambda: forward(packed).mean())
    for name, gradient in expected.items():
        assert gradient.abs().sum() > 0, name
        if exact:
            torch.testing.assert_close(found[name], gradient, rtol=2e-3, atol=2e-5)
        else:
            assert float((found[name] - gradient).norm()) < 0.05 * float(gradient.norm()), name


@pytest.mark.parametrize(
    ("quantize", "dtype"), [("4bit", "float32"), ("8bit", "bfloat16"), ("4bit", "bfloat16")]
)
def test_both_stages_train_on_a_quantised_base_for_the_whole_one(
    base: str, tmp_path: Path, quantize: str, dtype: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("bitsandbytes")
    how = [
        f"quantize={quantize}",
        "batch_size=7",
        "num_train_epochs=8",
        "lora.target_modules=all-linear",
        "save_steps=0",
    ]
    first, second = tmp_path / "stage-1", tmp_path / "stage-2"
    clone(
        labelled(tmp_path / "labelled.json"), first, base,
        settings=settings(Clone, *how), device="cpu", dtype=dtype,
    )  # fmt: skip
    rlef(
        ranked(tmp_path / "ranked.json"), second, base, first,
        settings=settings(Rlef, *how), device="cpu", dtype=dtype,
    )  # fmt: skip
    for folder in (first, second):
        losses = [row["loss"] for row in read(folder / "log.jsonl")]
        assert losses[-1] < 0.8 * losses[0]
        assert {weight.dtype for weight in load_file(folder / "adapter_model.safetensors").values()} == {
            torch.float32
        }
    whole = load(base, second, device="cpu", dtype="float32").model
    assert {type(module).__name__ for module in whole.modules()} >= {"Linear"}
    said = capfd.readouterr()
    assert "kernels" not in said.err + said.out
    assert "Warning" not in said.err


def test_an_adapter_of_a_quantised_base_generates_on_the_whole_one(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("bitsandbytes")
    clone(
        labelled(tmp_path / "labelled.json"), tmp_path / "out", base,
        settings=settings(Clone, "quantize=4bit", "max_steps=2"), device="cpu", dtype="float32",
    )  # fmt: skip
    code, _, lines = command(
        capsys, "generate", "--model", base, "--adapter", tmp_path / "out", "--task", "math", "--data",
        sums(tmp_path / "S.json", 2), "--output", tmp_path / "predicted.json", "--device", "cpu",
    )  # fmt: skip
    assert code == 0, lines
    assert len(read(tmp_path / "predicted.json")) == 2


def test_bitsandbytes_that_is_missing_or_has_no_such_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    how = settings(Clone, "quantize=4bit")
    monkeypatch.setattr("trice.training.environment.find_spec", lambda name: object())
    with pytest.raises(InputError, match="does not support device meta"):
        check_machine(how, "meta")
    monkeypatch.setattr("trice.training.environment.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"quantize=4bit: needs bitsandbytes: pip install"):
        check_machine(how, "cpu")


@pytest.mark.parametrize("family", ["llama", "gemma3", "gemma2"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_changes_no_gradient(
    tiny_model: Callable[[str], Path], family: str, dropout: float
) -> None:
    model = adapted(str(tiny_model(family)), dropout, dtype="float32")
    forward = PackedForward(model, examples())
    packed = forward.pack(examples())
    model.train()
    kept = gradients(model, lambda: forward(packed).mean())
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    passes: list[int] = []
    layer = model.get_base_model().model.layers[0].mlp
    layer.register_forward_pre_hook(lambda *_: passes.append(1))
    with forward:
        again = gradients(model, lambda: forward(packed).mean())
    assert len(passes) == 2  # forward, and once more in backward
    for name, gradient in kept.items():
        assert torch.equal(again[name], gradient), name


def test_checkpointing_trains_the_same_adapter_on_a_quantised_base_too(base: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    data = ranked(tmp_path / "ranked.json")
    for name, more in (("kept", ""), ("again", "gradient_checkpointing=true")):
        how = settings(Rlef, "quantize=4bit", "lora.lora_dropout=0.1", *([more] if more else []))
        rlef(data, tmp_path / name, base, settings=how, device="cpu", dtype="float32")
    kept, again = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("kept", "again"))
    assert all(torch.equal(again[name], weight) for name, weight in kept.items())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_log_probabilities_are_float32_over_a_half_precision_base(
    base: str, tmp_path: Path, dtype: str
) -> None:
    model = adapted(base, dtype=dtype)
    forward = PackedForward(model, examples())
    with torch.no_grad(), half_precision_autocast(model.get_base_model()):
        logps = forward(forward.pack(examples()))
    assert logps.dtype == torch.float32
    rlef(
        ranked(tmp_path / "ranked.json"), tmp_path / "out", base,
        settings=settings(Rlef, "gradient_checkpointing=true", "num_train_epochs=4"), device="cpu", dtype=dtype,
    )  # fmt: skip
    rows = read(tmp_path / "out" / "log.jsonl")
    assert all(torch.isfinite(torch.tensor([row["loss"], row["grad_norm"]])).all() for row in rows)
    assert rows[-1]["loss"] < rows[0]["loss"]
