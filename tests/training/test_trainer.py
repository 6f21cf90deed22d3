"""The objective as a whole, and both stages from a data file to a finished adapter, killed and run again."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import plainly
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from trice.errors import InputError, TriceError
from trice.models.local import LocalModel, load, load_base
from trice.training.clone import clone
from trice.training.fine_tune import training_arguments
from trice.training.lora import with_lora
from trice.training.packed_forward import PackedForward
from trice.training.packing import ResponseTokens, TokenizedExample
from trice.training.rlef import rlef
from trice.training.settings import Clone, Lora, Rlef
from trice.training.tokenization import drop_long
from trice.training.trainer import TriceConfig, TriceTrainer, loss_sums

LORA = Lora(r=4, lora_dropout=0.1, target_modules="all-linear")
CLONE = Clone(
    num_train_epochs=3,
    batch_size=4,
    learning_rate=1e-2,
    warmup_steps=1,
    save_steps=2,
    token_budget=128,
    lora=LORA,
)
RLEF = Rlef(num_train_epochs=2, batch_size=3, learning_rate=1e-3, save_steps=2, margin=0.1, lora=LORA)


def questions() -> list[TokenizedExample]:
    """Three questions with candidates of several lengths, each with two or more reward levels."""
    draw = torch.Generator().manual_seed(0)

    def ids(length: int) -> list[int]:
        return torch.randint(3, 320, (length,), generator=draw).tolist()

    shapes = [(14, [5, 3, 9], [20, 5, 10]), (6, [2, 7, 4, 4], [15, 20, 0, 0]), (25, [12], [20])]
    return [
        TokenizedExample(
            ids(prompt),
            [ResponseTokens(r, [True] * len(r)) for r in map(ids, lengths)],
            list(map(float, rewards)),
        )
        for prompt, lengths, rewards in shapes
    ]


@torch.no_grad()
def by_hand(model: Any, examples: list[TokenizedExample], alpha: float, margin: float) -> float:
    return float(plainly.objective(model, examples, alpha, margin))


@pytest.fixture(params=["llama", "gemma2", "gemma3", "glm4"])
def exact(request: pytest.FixtureRequest, tiny_model: Callable[[str], Path]) -> Any:
    """A model in float64 with LoRA layers that do something, without dropout."""
    loaded = load_base(str(tiny_model(request.param)), device="cpu", dtype="float32")
    model = with_lora(loaded, None, Lora(r=2, lora_dropout=0, target_modules="all-linear"), 0).double()
    request.getfixturevalue("float64")
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize(("alpha", "margin"), [(0.1, 0.0), (1.0, 0.5)])
def test_gradient_of_the_whole_objective_against_finite_differences(
    exact: Any, alpha: float, margin: float
) -> None:
    forward = PackedForward(exact, questions())
    batch, objective = forward.pack(questions()), Rlef(alpha=alpha, margin=margin)

    def loss() -> torch.Tensor:
        parts = loss_sums(forward(batch), batch, objective)
        assert float(parts.rank.detach()) > 0
        return alpha * parts.rank / parts.questions + parts.sft / parts.tokens

    value = loss()
    value.backward()
    with torch.no_grad():
        assert float(value) == pytest.approx(by_hand(exact, questions(), alpha, margin), rel=1e-10)
        trained = [p for p in exact.parameters() if p.requires_grad]
        for parameter in trained[:: len(trained) // 6]:
            place = int(parameter.grad.abs().argmax())
            entry, step = parameter.view(-1)[place], 1e-5
            entry += step
            above = float(loss())
            entry -= 2 * step
            slope = (above - float(loss())) / (2 * step)
            entry += step
            assert float(parameter.grad.view(-1)[place]) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("budget", [64, 100])
def test_a_step_has_one_gradient_however_its_batch_is_cut(exact: Any, tmp_path: Path, budget: int) -> None:
    def step(examples: list[TokenizedExample], token_budget: int) -> torch.Tensor:
        loaded = LocalModel("tiny", exact, None, torch.device("cpu"))
        settings = Rlef(alpha=0.5, margin=0.1, token_budget=token_budget)
        args = training_arguments(tmp_path, settings, 0, loaded, 1)
        trainer = TriceTrainer(exact, args, examples)
        exact.zero_grad()
        loss = trainer.training_step(exact, examples)
        assert float(loss) == pytest.approx(by_hand(exact, examples, 0.5, 0.1), rel=1e-5)
        return torch.cat([p.grad.flatten() for p in exact.parameters() if p.requires_grad])

    whole = step(questions(), 10_000)
    torch.testing.assert_close(step(questions(), budget), whole, rtol=1e-10, atol=1e-12)
    turned = [replace(e, responses=e.responses[::-1], rewards=e.rewards[::-1]) for e in questions()[::-1]]
    torch.testing.assert_close(step(turned, budget), whole, rtol=1e-10, atol=1e-12)


def test_the_expected_utility_is_that_of_the_plain_model_and_changes_nothing_else(exact: Any) -> None:
    first, second, third = questions()
    openings = [ResponseTokens(ids, [True] * len(ids)) for ids in ([9, 8], first.responses[0].ids[:1])]
    asked = replace(first, responses=[*first.responses, *openings], utility=(0.9, 0.2))
    forward = PackedForward(exact, questions())
    parts, without = (
        loss_sums(forward(packed), packed, Rlef(utility=0.5))
        for packed in (forward.pack([asked, second, third]), forward.pack(questions()))
    )
    with torch.no_grad():
        called = sum(float(logps.sum().exp()) for logps in plainly.alone(exact, asked)[-2:])
    assert float(torch.as_tensor(parts.utility).detach()) == pytest.approx(
        called * 0.9 + (1 - called) * 0.2, rel=1e-10
    )
    assert (parts.decisions, without.decisions) == (1, 0)
    for name in ("sft", "tokens", "rank", "questions", "pairs", "ordered"):
        ours, theirs = (float(torch.as_tensor(getattr(each, name)).detach()) for each in (parts, without))
        assert ours == pytest.approx(theirs, rel=1e-10)


def test_an_example_without_candidates_adds_its_decision_alone(exact: Any) -> None:
    first, second, _ = questions()
    opening = ResponseTokens([9, 8], [True, True])
    alone = TokenizedExample(first.prompt, [opening], [], utility=(-0.1, 0.0))
    forward = PackedForward(exact, questions())
    both, ranked, decided = (
        loss_sums(forward(packed), packed, Rlef(utility=0.5))
        for packed in map(forward.pack, ([alone, second], [second], [alone]))
    )
    for name in ("sft", "tokens", "rank", "pairs", "ordered"):
        ours, theirs = (float(torch.as_tensor(getattr(each, name)).detach()) for each in (both, ranked))
        assert ours == pytest.approx(theirs, rel=1e-10)
    with torch.no_grad():
        call = float(plainly.alone(exact, alone)[0].sum().exp())
    for each in (both, decided):
        assert float(torch.as_tensor(each.utility).detach()) == pytest.approx(-0.1 * call, rel=1e-10)
    assert (both.decisions, decided.decisions, decided.tokens) == (1, 1, 0)


@pytest.mark.parametrize("call_value", [0.9, -0.1])
def test_training_on_the_expected_utility_alone_moves_the_decision(
    tiny_model: Callable[[str], Path], tmp_path: Path, call_value: float
) -> None:
    model = load_base(str(tiny_model("llama")), device="cpu", dtype="float32").model
    model.requires_grad_(True)
    (first, *_) = questions()
    opening = ResponseTokens([40], [True])
    asked = replace(first, responses=[*first.responses, opening], utility=(call_value, 0.3))
    args = TriceConfig(
        output_dir=str(tmp_path), max_steps=12, learning_rate=1e-2, sft=0, alpha=0, utility=1, use_cpu=True,
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip

    def p_call() -> float:
        with torch.no_grad():
            return float(plainly.alone(model, asked)[-1].exp())

    before = p_call()
    trainer = TriceTrainer(model, args, [asked])
    trainer.train()
    assert p_call() > 10 * before if call_value > 0 else p_call() < before / 2
    utility = [entry["utility"] for entry in trainer.state.log_history if "utility" in entry]
    assert utility == sorted(utility)


def test_a_model_without_an_adapter_is_validated_without_checkpoints(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    model = load_base(str(tiny_model("llama")), device="cpu", dtype="float32").model
    model.requires_grad_(True)
    args = TriceConfig(
        output_dir=str(tmp_path), max_steps=2, use_cpu=True, save_strategy="no", eval_strategy="steps",
        eval_steps=1, disable_tqdm=True,
    )  # fmt: skip
    trainer = TriceTrainer(model, args, questions(), validate=lambda part, parts: [4.0, 2.0, 1.0, 1.8])
    trainer.train()
    rewards = [entry["eval_reward"] for entry in trainer.state.log_history if "eval_reward" in entry]
    assert rewards == [pytest.approx(0.45)] * 2
    assert not list(tmp_path.glob("checkpoint-*"))


def test_the_same_step_gives_the_same_bits_on_several_threads(tiny_model: Callable[[str], Path]) -> None:
    """Many responses share the prompt's last position, where their gradients meet."""
    loaded = load_base(str(tiny_model("llama")), device="cpu", dtype="float32")
    model = with_lora(loaded, None, Lora(r=2, lora_dropout=0, target_modules="all-linear"), 0)
    responses = [ResponseTokens([4 + i % 7, 5 + i % 11, 6 + i % 13] * 5, [True] * 15) for i in range(100)]
    examples = [TokenizedExample([1, 5, 6, 7], responses, [float(i % 3) for i in range(100)])]
    forward = PackedForward(model, examples)
    batch = forward.pack(examples)

    def gradient() -> torch.Tensor:
        model.zero_grad()
        parts = loss_sums(forward(batch), batch, Rlef())
        (parts.sft + parts.rank).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])

    first = gradient()
    assert all(torch.equal(gradient(), first) for _ in range(10))


def test_the_best_response_is_the_first_of_equals(tiny_model: Callable[[str], Path]) -> None:
    model = load(str(tiny_model("llama")), device="cpu", dtype="float32").model
    example = replace(questions()[0], rewards=[15.0, 20.0, 20.0])
    second = replace(example, responses=example.responses[1:2], rewards=[20.0])
    with torch.no_grad():
        forward = PackedForward(model, [example])
        one, two = forward.pack([example]), forward.pack([second])
        ours, alone = loss_sums(forward(one), one, Rlef()), loss_sums(forward(two), two, Rlef())
    assert ours.tokens == alone.tokens == 3
    assert (alone.pairs, float(alone.rank)) == (0, 0)
    torch.testing.assert_close(ours.sft, alone.sft)


def test_questions_that_are_too_long_are_left_out_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    # The longest response counts, not all of them: 14 + 9, 6 + 7 and 25 + 12 tokens.
    assert drop_long(questions(), 23) == questions()[:2]
    assert capsys.readouterr().err == "left out 1 of 3 questions longer than 23 tokens\n"
    with pytest.raises(InputError, match="max_length 8: every question is longer"):
        drop_long(questions(), 8)


# The stages, from file to adapter.


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data for both stages."""
    folder = tmp_path_factory.mktemp("training")
    sums = [(a, b) for a in (3, 12, 45) for b in (2, 8, 30)]
    write(
        folder / "math.json",
        [
            {"instruction": "Solve.", "input": f"What is {a} and {b}?", "output": f"calculator({a}+{b})"}
            for a, b in sums
        ],
    )
    write(
        folder / "ranked.json",
        [
            {
                "query": f"Solve.\nWhat is {a} and {b}?",
                "responses": [f"calculator({a}+{b})", f"{a + b}", f"It is {a}."],
                "origin": ["gold", "early", "late"],
                "scores": [20, 10, 0],
                "answer": [str(a + b), str(a + b), str(a)],
            }
            for a, b in sums
        ],
    )
    return folder


@pytest.fixture(scope="module")
def llama(tiny_model: Callable[[str], Path]) -> str:
    return str(tiny_model("llama"))


@pytest.fixture(scope="module")
def cloned(work: Path, llama: str) -> Path:
    """An uninterrupted run of stage 1: nine steps, checkpoints at 2, 4, 6, 8 and 9."""
    return clone(work / "math.json", work / "stage1", llama, settings=CLONE, device="cpu", dtype="float32")


def again(work: Path, llama: str, output: Path, **options: Any) -> Path:
    """The same run into another folder."""
    settings = {"settings": CLONE, "device": "cpu", "dtype": "float32"} | options
    return clone(work / "math.json", output, llama, **settings)


def log(adapter: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (adapter / "log.jsonl").read_text().splitlines()]


def weights(adapter: Path) -> bytes:
    return (adapter / "adapter_model.safetensors").read_bytes()


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails within this fixture fails before any weights are loaded."""
    monkeypatch.setattr("trice.models.local.AutoModelForCausalLM", None)


def test_clone_learns_and_leaves_an_adapter_with_its_papers(cloned: Path, llama: str) -> None:
    lines = log(cloned)
    assert [line["step"] for line in lines] == list(range(1, 10))
    assert set(lines[0]) == {"step", "loss", "sft_loss", "learning_rate", "grad_norm"}
    assert lines[-1]["sft_loss"] < 0.7 * lines[0]["sft_loss"]

    base = load(llama, device="cpu", dtype="float32")
    peft = PeftModel.from_pretrained(load(llama, device="cpu", dtype="float32").model, str(cloned))
    ours = load(llama, cloned, device="cpu", dtype="float32")
    tokens = torch.tensor([[1, 5, 6, 7]])
    with torch.no_grad():
        theirs = peft.eval()(tokens).logits
        assert not torch.allclose(theirs, base.model(tokens).logits, atol=1e-2)
        torch.testing.assert_close(ours.model(tokens).logits, theirs, rtol=1e-4, atol=1e-4)

    card = (cloned / "README.md").read_text()
    assert "base_model:" not in card  # a folder, which the hub does not know
    assert f"A LoRA adapter for `{llama}`" in card
    assert "`math.json`" in card
    assert "behaviour cloning (stage 1)" in card
    assert json.loads((cloned / "adapter_config.json").read_text())["base_model_name_or_path"] == llama
    assert json.loads((cloned / "trice.json").read_text())["template"] == "plain"


def test_rlef_goes_on_from_the_adapter_and_logs_its_parts(cloned: Path, work: Path, llama: str) -> None:
    stage2 = rlef(
        work / "ranked.json", work / "stage2", llama, cloned, settings=RLEF, device="cpu", dtype="float32"
    )
    first, *_, last = log(stage2)
    assert first["loss"] == pytest.approx(first["sft_loss"] + first["rank_loss"], abs=2e-4)
    # Nothing has moved yet: stage 2 begins where stage 1 ended, far below an untrained model.
    assert first["sft_loss"] < 0.7 * log(cloned)[0]["sft_loss"]
    assert last["rank_loss"] < first["rank_loss"]
    assert all(0 <= line["ordered"] <= 1 for line in log(stage2))
    assert "RLEF (stage 2)" in (stage2 / "README.md").read_text()
    assert weights(stage2) != weights(cloned)


def test_rlef_may_start_from_the_base_model(work: Path, llama: str, tmp_path: Path) -> None:
    settings = RLEF.model_copy(update={"max_steps": 1})
    stage2 = rlef(work / "ranked.json", tmp_path / "out", llama, settings=settings, device="cpu")
    assert (stage2 / "adapter_config.json").is_file()


def test_the_same_call_gives_the_same_bytes_and_another_seed_others(
    cloned: Path, work: Path, llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twin = again(work, llama, tmp_path / "twin")
    for name in ("adapter_model.safetensors", "adapter_config.json", "log.jsonl", "trice.json"):
        assert (twin / name).read_bytes() == (cloned / name).read_bytes(), name
    before = {path: path.stat().st_mtime_ns for path in twin.rglob("*")}
    again(work, llama, tmp_path / "twin")
    assert {path: path.stat().st_mtime_ns for path in twin.rglob("*")} == before
    assert "already trained with these settings" in capsys.readouterr().err
    assert weights(again(work, llama, tmp_path / "other", seed=1)) != weights(cloned)


def unfinished(cloned: Path, output: Path) -> Path:
    """A copy of the run as it stood after its last checkpoint, before the adapter was there."""
    shutil.copytree(cloned, output)
    for name in ("adapter_model.safetensors", "adapter_config.json", "log.jsonl"):
        (output / name).unlink()
    return output


def torn(checkpoint: Path) -> None:
    state = checkpoint / "trainer_state.json"
    state.write_text(state.read_text()[:100])


def saving(run: Path) -> None:
    (run / ".saving").write_bytes(b"torn")
    (run / "adapter_model.safetensors").write_bytes(b"whole, but not yet announced")


def damages() -> Iterator[Any]:
    """What a kill may leave, as changes to the folder of an unfinished run."""
    yield pytest.param(lambda run: None, id="before the adapter")
    yield pytest.param(saving, id="while saving the adapter")
    yield pytest.param(lambda run: torn(run / "checkpoint-9"), id="in a checkpoint's last file")
    yield pytest.param(
        lambda run: (
            [(run / "checkpoint-8" / name).unlink() for name in ("trainer_state.json", "optimizer.pt")]
            and shutil.rmtree(run / "checkpoint-9")
        ),
        id="early in a checkpoint",
    )
    yield pytest.param(
        lambda run: [shutil.rmtree(path) for path in run.glob("checkpoint-*")], id="before any checkpoint"
    )
    yield pytest.param(lambda run: [torn(path) for path in run.glob("checkpoint-*")], id="all torn")


@pytest.mark.parametrize("damage", damages())
def test_a_run_that_was_cut_off_ends_in_the_same_bytes(
    cloned: Path, work: Path, llama: str, tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    run = unfinished(cloned, tmp_path / "run")
    damage(run)
    again(work, llama, run)
    assert weights(run) == weights(cloned)
    assert log(run) == log(cloned)
    assert sorted(path.name for path in run.iterdir()) == sorted(path.name for path in cloned.iterdir())


def test_a_run_cut_off_after_its_last_step_takes_no_other(work: Path, llama: str, tmp_path: Path) -> None:
    """Two steps of three an epoch: the trainer alone would go on to the epoch's end."""
    two = CLONE.model_copy(update={"max_steps": 2, "lr_scheduler_type": "constant"})
    whole = again(work, llama, tmp_path / "whole", settings=two)
    run = unfinished(whole, tmp_path / "run")
    again(work, llama, run, settings=two)
    assert weights(run) == weights(whole)
    assert log(run) == log(whole)
    assert (run / "adapter_config.json").read_bytes() == (whole / "adapter_config.json").read_bytes()


def test_stage_2_records_the_layers_it_goes_on_with(
    cloned: Path, work: Path, llama: str, tmp_path: Path
) -> None:
    settings = RLEF.model_copy(update={"max_steps": 1, "lora": Lora(r=64, target_modules=["q_proj"])})
    out = rlef(work / "ranked.json", tmp_path / "out", llama, cloned, settings=settings, device="cpu")
    made = json.loads((out / "trice.json").read_text())
    assert (made["lora"]["r"], made["lora"]["lora_dropout"]) == (4, 0.1)
    assert "down_proj" in made["lora"]["target_modules"]


def test_a_run_killed_by_the_system_ends_in_the_same_bytes(
    cloned: Path, work: Path, llama: str, tmp_path: Path
) -> None:
    """The process ends itself by SIGKILL halfway through a file of its second checkpoint."""
    run = tmp_path / "run"
    script = f"""
import os, signal, torch
from pathlib import Path
from trice.training.clone import clone
from trice.training.settings import Clone
save = torch.save
def save_half(what, path, **options):
    save(what, path, **options)
    if str(path).endswith("checkpoint-4/optimizer.pt"):
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
torch.save = save_half
settings = Clone.model_validate_json({CLONE.model_dump_json()!r})
clone(Path({str(work / "math.json")!r}), Path({str(run)!r}), {llama!r},
      settings=settings, device="cpu", dtype="float32")
"""
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert {path.name for path in run.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    assert not (run / "adapter_config.json").exists()
    again(work, llama, run)
    assert weights(run) == weights(cloned)
    assert log(run) == log(cloned)


def test_a_finished_or_begun_run_is_not_mixed_with_another(
    cloned: Path, work: Path, llama: str, tmp_path: Path, no_model: None
) -> None:
    changed = CLONE.model_copy(update={"num_train_epochs": 4})
    for folder in (cloned, unfinished(cloned, tmp_path / "run")):
        with pytest.raises(
            InputError, match=r"begun with other settings \(num_train_epochs was 3\.0, is now 4\.0\)"
        ):
            again(work, llama, folder, settings=changed)
        with pytest.raises(InputError, match=r"\(seed was 0, is now 7\)"):
            again(work, llama, folder, seed=7)
        with pytest.raises(InputError, match=r"\(limit was None, is now 5\)"):
            again(work, llama, folder, limit=5)


def test_a_training_on_few_questions_is_not_taken_for_one_on_all(
    cloned: Path, work: Path, llama: str, tmp_path: Path, no_model: None
) -> None:
    few = tmp_path / "few"
    shutil.copytree(cloned, few)
    record = json.loads((few / "trice.json").read_text()) | {"limit": 5}
    (few / "trice.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"\(limit was 5, is now None\)"):
        again(work, llama, few)


def test_what_changes_no_result_may_change_in_the_middle_of_training(
    cloned: Path, work: Path, llama: str, tmp_path: Path
) -> None:
    run = unfinished(cloned, tmp_path / "run")
    made = json.loads((run / "trice.json").read_text())
    (run / "trice.json").write_text(json.dumps(made | {"trice": "0.0.1"}))  # of an older version
    changes = {"token_budget": 64, "save_steps": 3, "gradient_checkpointing": True}
    again(work, llama, run, settings=CLONE.model_copy(update=changes))
    now = json.loads((run / "trice.json").read_text())
    assert now == made | changes
    ours, whole = (load_file(folder / "adapter_model.safetensors") for folder in (run, cloned))
    for name, tensor in whole.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-5, rtol=1e-4)
    (run / "adapter_model.safetensors").unlink()  # a deleted adapter is no finished one
    again(work, llama, run, settings=CLONE)
    assert (run / "adapter_model.safetensors").is_file()


def test_a_folder_is_trained_by_one_process(work: Path, llama: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with (run / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as another process would hold it
        with pytest.raises(TriceError, match="another process is working there"):
            again(work, llama, run)
    again(work, llama, run)
    assert not (run / ".lock").exists()


def test_a_call_that_failed_at_once_can_be_corrected(work: Path, llama: str, tmp_path: Path) -> None:
    for targets in (["nosuch_proj"], "nosuch"):
        bad = CLONE.model_copy(update={"lora": Lora(target_modules=targets)})
        with pytest.raises(InputError, match=r"lora\.target_modules .*nosuch"):
            again(work, llama, tmp_path / "run", settings=bad)
    short = CLONE.model_copy(update={"max_steps": 1})
    assert (again(work, llama, tmp_path / "run", settings=short) / "adapter_config.json").is_file()


def row(**changes: Any) -> str:
    fields = {"instruction": "Solve.", "input": "1 and 2?", "output": "3"} | changes
    return json.dumps({name: value for name, value in fields.items() if value is not None}) + "\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", r"math\.json: holds no rows"),
        (row() + "{torn\n", r"math\.json:2: not a JSON object"),
        (row() + row(output=None), r"math\.json:2: field 'output': Field required"),
        (row(input=["no text"]), r"math\.json:1: field 'input'"),
        (None, r"math\.json: no such file"),
    ],
)
def test_bad_data_is_one_line_before_any_model(
    text: str | None, complaint: str, llama: str, tmp_path: Path, no_model: None
) -> None:
    if text is not None:
        (tmp_path / "math.json").write_text(text)
    with pytest.raises(InputError, match=complaint) as caught:
        clone(tmp_path / "math.json", tmp_path / "out", llama, device="cpu")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_bad_candidate_row_names_its_field(llama: str, tmp_path: Path, no_model: None) -> None:
    data = write(tmp_path / "ranked.json", [{"query": "q", "responses": ["a", "b"], "scores": [1]}])
    with pytest.raises(InputError, match=r"ranked\.json:1: field 'scores': 1 scores for 2 responses"):
        rlef(data, tmp_path / "out", llama, device="cpu")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"model": "no/such-model"}, "model 'no/such-model' is neither a folder"),
        ({"dtype": "float7"}, "dtype 'float7' is not valid; choose auto, float32"),
        ({"device": "nosuch"}, "--device nosuch: "),
        ({"adapter": "missing"}, r"missing is not an adapter \(adapter_config\.json is missing\)"),
        (
            {"adapter": "no weights"},
            r"is not an adapter \(adapter_model\.safetensors or adapter_model\.bin is missing\)",
        ),
        ({"adapter": "of another"}, "was trained on base model 'some/other-7b', not on"),
        ({"adapter": "not json"}, r"adapter_config\.json: not a JSON object"),
    ],
)
def test_bad_calls_are_one_line_before_any_model(
    options: dict[str, str],
    complaint: str,
    cloned: Path,
    work: Path,
    llama: str,
    tmp_path: Path,
    no_model: None,
) -> None:
    for name in ("no weights", "of another", "not json"):
        unfinished(cloned, tmp_path / name)
        shutil.copy(cloned / "adapter_config.json", tmp_path / name)
    for name in ("of another", "not json"):
        shutil.copy(cloned / "adapter_model.safetensors", tmp_path / name)
    config = tmp_path / "of another" / "adapter_config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "some/other-7b"})
    )
    (tmp_path / "not json" / "adapter_config.json").write_text("[]")
    call: dict[str, Any] = {"model": llama, "device": "cpu"} | options
    if "adapter" in options:
        call["adapter"] = tmp_path / options["adapter"]
    with pytest.raises(InputError, match=complaint) as caught:
        rlef(work / "ranked.json", tmp_path / "out", **call)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_another_shape_is_refused(
    cloned: Path, work: Path, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """Of the right name, but its weights do not fit."""
    adapter = shutil.copytree(cloned, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"r": 16}))
    model = config["base_model_name_or_path"]
    with pytest.raises(
        InputError, match=r"adapter: does not fit model '.*tiny-llama' \(Error\(s\) in loading"
    ):
        rlef(work / "ranked.json", tmp_path / "out", model, adapter, device="cpu", dtype="float32")
    with pytest.raises(InputError, match="does not fit model"):
        load(model, adapter, device="cpu", dtype="float32")


PLAIN = CLONE.model_copy(
    update={"max_steps": 2, "lora": Lora(r=4, lora_dropout=0, target_modules="all-linear")}
)
COMPILED = PLAIN.model_copy(update={"torch_compile": True})


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_layers_train_the_same(work: Path, llama: str, tmp_path: Path) -> None:
    torch.compiler.reset()
    counters.clear()
    compiled, plain = (
        log(again(work, llama, tmp_path / str(settings.torch_compile), settings=settings))
        for settings in (COMPILED, PLAIN)
    )
    assert counters["stats"]["unique_graphs"] >= 1
    for ours, theirs in zip(compiled, plain, strict=True):
        assert ours["sft_loss"] == pytest.approx(theirs["sft_loss"], rel=1e-4)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (COMPILED, r"^torch_compile: torch\.compile does not work on this machine \(.*nosuch"),
        (CLONE.model_copy(update={"report_to": ["nosuch"]}), "^report_to: nosuch is not supported"),
    ],
)
def test_what_the_machine_lacks_is_said_before_any_model(
    settings: Clone, complaint: str, work: Path, llama: str, tmp_path: Path, no_model: None
) -> None:
    from torch._inductor import config
    from torch._inductor.utils import fresh_cache

    torch.compiler.reset()
    with (
        config.patch({"cpp.cxx": (None, "nosuch")}),
        fresh_cache(),
        pytest.raises(InputError, match=complaint),
    ):
        again(work, llama, tmp_path / "run", settings=settings)
    assert not (tmp_path / "run").exists()
