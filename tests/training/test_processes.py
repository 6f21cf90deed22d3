"""Several processes train as one: they give the same losses and the same adapter for any number of questions."""

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

from tiny import read, read_settings, torchrun, write
from trice.settings import SettingsT
from trice.training.clone import clone
from trice.training.rlef import rlef
from trice.training.settings import Clone, Rlef

HOW = [
    "batch_size=4",
    "learning_rate=0.01",
    "token_budget=96",
    "save_steps=2",
    "lora.lora_dropout=0",
    "lora.r=4",
]


def ranked(path: Path) -> Path:
    """Seven questions, so that batches of four leave three, which two processes cannot share evenly."""
    return write(
        path,
        [
            {
                "query": f"What is {'the sum of ' * (i % 4)}{i} and 7?",
                "responses": [*(f"calculator({i}{end}" for end in ("+7)", "-7)", "+7)+1")), str(i)][
                    : 2 + i % 3
                ],
                "scores": [20, 5, 0, 10][: 2 + i % 3],
            }
            for i in range(7)
        ],
    )


def settings(kind: type[SettingsT], *more: str) -> SettingsT:
    return read_settings(kind, [*HOW, *more])


def words(*more: str) -> list[str]:
    return [*HOW, *more]


def same(one: Path, other: Path, *, atol: float = 1e-4, level: bool = False) -> None:
    """The same figures at every step, and the same adapter, to float32's tolerance. `level`: at the first step no
    pair is ahead, as with DPO, so that how many are in order is noise."""
    for ours, theirs in zip(read(one / "log.jsonl"), read(other / "log.jsonl"), strict=True):
        for figures in (ours, theirs) if level and ours["step"] == 1 else ():
            figures.pop("ordered")
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    weights, others = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], rtol=1e-3, atol=atol)


@pytest.fixture
def base(tiny_model: Callable[[str], Path]) -> str:
    return str(tiny_model("llama"))


@pytest.mark.parametrize("processes", [2, 3])
def test_stage_2_in_several_processes_is_that_of_one(base: str, tmp_path: Path, processes: int) -> None:
    data = ranked(tmp_path / "ranked.json")
    how = ("objective=dpo",) if processes == 2 else ()
    rlef(data, tmp_path / "one", base, settings=settings(Rlef, *how), device="cpu", dtype="float32")
    command = ["train", "rlef", "--model", base, "--data", data, "--output", tmp_path / "several"]
    command += ["--device", "cpu", "--dtype", "float32", *words(*how)]
    done = torchrun(processes, tmp_path / "first", *command)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'several'}\n"  # printed once
    same(tmp_path / "one", tmp_path / "several", level=bool(how))
    again = torchrun(processes, tmp_path / "again", *command)
    assert "already trained with these settings" in again.stderr


def test_stage_1_in_two_processes_resumes_after_a_kill(base: str, tmp_path: Path) -> None:
    rows: list[Any] = [
        {"instruction": "", "input": f"What is {i} and 7?", "output": f"calculator({i}+7)"} for i in range(9)
    ]
    data = write(tmp_path / "labelled.json", rows)
    one, several = tmp_path / "one", tmp_path / "several"
    clone(data, one, base, settings=settings(Clone, "num_train_epochs=2"), device="cpu", dtype="float32")
    command = ["train", "clone", "--model", base, "--data", data, "--device", "cpu", "--dtype", "float32"]
    command += [*words("num_train_epochs=2"), "--output", several]
    assert torchrun(2, tmp_path / "first", *command).returncode == 0
    same(one, several)
    # What a kill at the fifth of six steps leaves: the checkpoint of the fourth.
    before = load_file(several / "adapter_model.safetensors")
    for path in [*several.glob("adapter*"), *(several / "checkpoint-6").iterdir()]:
        path.unlink()
    assert torchrun(2, tmp_path / "again", *command).returncode == 0
    after = load_file(several / "adapter_model.safetensors")
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_bad_input_ends_every_process(base: str, tmp_path: Path) -> None:
    data = write(tmp_path / "labelled.json", [{"instruction": "", "input": "What?"}])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["-m", "trice", "train", "clone", "--model", base, "--data", data, "--output", tmp_path / "out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*launch, *words], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "labelled.json:1" in done.stderr
    assert "Traceback" not in done.stderr.split("torch/distributed")[0]
