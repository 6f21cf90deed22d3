"""Training without files: the trainer on records in memory, and the losses in a plain torch loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from plainly import alone
from transformers import AutoModelForCausalLM, AutoTokenizer

import trice
from trice import InputError, PackedForward, TriceConfig, TriceTrainer, losses
from trice.training.packing import TokenizedExample
from trice.training.tokenization import tokenize, tokenize_record

ROWS = [
    {"prompt": "What is 6 * 7?", "responses": ["calculator(6*7)", "43"], "rewards": [1.0, 0.0]},
    {"prompt": "What is 6 * 8?", "responses": ["49", "48", "calculator(6*8)"], "rewards": [0.0, 1.0, 0.9]},
]


@pytest.fixture
def tokenizer(tiny_model: Callable[[str], Path]) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model("llama"))


@pytest.fixture(params=["plain", "lora"])
def model(request: pytest.FixtureRequest, tiny_model: Callable[[str], Path]) -> Any:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tiny_model("llama"), dtype=torch.float32)
    if request.param == "plain":
        return base
    model = get_peft_model(base, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return model


def state(model: Any) -> tuple[Any, ...]:
    """What a caller could notice of a wrapper that changes the model."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    return causal.config._attn_implementation, "forward" in vars(causal), model.training


def test_names_are_public_and_lazy() -> None:
    assert {"PackedForward", "TriceConfig", "TriceTrainer", "losses"} <= set(dir(trice))
    assert trice.losses.rank_loss is losses.rank_loss


def test_a_torch_loop_has_the_losses_and_gradients_computed_by_hand(model: Any, tokenizer: Any) -> None:
    examples, before = tokenize(ROWS, tokenizer), state(model)
    forward = PackedForward(model, ROWS, tokenizer)
    packed = forward.pack(ROWS)
    logps_N = forward(packed)
    assert state(model) == before
    scores_S = losses.sequence_scores(logps_N, packed.response_N, packed.responses)
    ranked = losses.rank_loss(packed.by_question(scores_S), packed.rewards_QK, packed.real_QK)
    loss = ranked.loss_Q.mean() + losses.sft_loss(logps_N[packed.best_N()])
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.zero_grad()
    (one, two), (three, four, five) = (alone(model, example) for example in examples)
    hinge = (two.mean() - one.mean()).clamp(min=0)
    hinges = [(three, four), (three, five), (five, four)]  # the worse response first
    second = sum((worse.mean() - better.mean()).clamp(min=0) for worse, better in hinges)
    expected = (hinge + second) / 2 - torch.cat([one, four]).mean()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    assert ranked.pairs_Q.tolist() == [1, 3]
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, dict(model.named_parameters())[name].grad, rtol=1e-4, atol=1e-6)


def test_gradient_checkpointing_runs_within_a_with_block(model: Any, tokenizer: Any) -> None:
    examples = tokenize(ROWS, tokenizer)
    before = state(model.train())
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with PackedForward(model, examples) as forward:
        losses.sft_loss(forward(forward.pack(examples))).backward()
    assert state(model) == before


@pytest.mark.parametrize("objective", ["rank", "dpo"])
def test_the_trainer_takes_a_model_a_tokenizer_and_records(
    model: Any, tokenizer: Any, objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    attention = state(model)[:2]
    args = TriceConfig(
        num_train_epochs=4,
        batch_size=2,
        learning_rate=1e-2,
        objective=objective,
        sft=0.5,
        use_cpu=True,
        seed=3,
    )
    trainer = TriceTrainer(model, args, ROWS, tokenizer)
    trainer.train()
    assert state(trainer.model)[:2] == attention
    steps = [entry for entry in trainer.state.log_history if "sft_loss" in entry]
    assert len(steps) == 4
    assert steps[-1]["sft_loss"] < steps[0]["sft_loss"]
    assert {"rank_loss", "ordered"} <= set(steps[0])
    assert steps[0]["loss"] == pytest.approx(steps[0]["rank_loss"] + steps[0]["sft_loss"] / 2, abs=1e-3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("objective", "scale_rewards"), [("grpo", "group"), ("reinforce", "none")])
def test_a_policy_gradient_is_that_of_trls_trainer(
    objective: str, scale_rewards: str, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """TRL scores the completions, computes the advantages and the loss; ours takes the same tokens and rewards."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    examples = [
        TokenizedExample.of([1, 5, 9, 30, 4], [[7, 8, 2], [7, 9, 11, 12, 2], [40, 2]], [1.0, 0.0, 0.9]),
        TokenizedExample.of([1, 6], [[50, 2], [50, 51, 52, 2], [50, 2]], [0.0, 0.0, 1.0]),
    ]
    folder = tiny_model("llama")
    theirs, ours = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for _ in range(2))
    tokens = {
        "prompt_ids": [example.prompt for example in examples for _ in example.responses],
        "completion_ids": [response.ids for example in examples for response in example.responses],
        "logprobs": None,
    }
    rows = [
        {"prompt": str(number), "r": r} for number, example in enumerate(examples) for r in example.rewards
    ]
    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path), loss_type="grpo", scale_rewards=scale_rewards, num_generations=3,
        per_device_train_batch_size=6, use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False,
    )  # fmt: skip
    assert (arguments.beta, arguments.num_iterations) == (0, 1)
    trainer = trl.GRPOTrainer(
        model=theirs, reward_funcs=lambda completions, r, **_: r, args=arguments, train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder), rollout_func=lambda prompts, trainer: dict(tokens),
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1
    expected = trainer.compute_loss(theirs.train(), trainer._generate_and_score_completions(rows))
    expected.backward()

    args = TriceConfig(objective=objective, sft=0.0, batch_size=2, use_cpu=True)
    found = TriceTrainer(ours, args, examples).training_step(ours, examples)
    assert float(found) == pytest.approx(float(expected.detach()), abs=1e-6)
    of_theirs = {name: weight.grad for name, weight in theirs.named_parameters()}
    for name, weight in ours.named_parameters():
        torch.testing.assert_close(weight.grad, of_theirs[name], rtol=1e-4, atol=1e-6)
        assert weight.grad.abs().max() > 1e-3


def test_the_trainers_first_loss_of_stage_1_is_the_mean_over_response_tokens(
    model: Any, tokenizer: Any
) -> None:
    rows = [{"prompt": row["prompt"], "response": row["responses"][0]} for row in ROWS]
    examples = tokenize(rows, tokenizer)
    with torch.no_grad():
        expected = -torch.cat(
            [logps for example in examples for logps in alone(model.eval(), example)]
        ).mean()
    trainer = TriceTrainer(model, TriceConfig(max_steps=1, batch_size=2, use_cpu=True), rows, tokenizer)
    trainer.train()
    assert trainer.state.log_history[0]["sft_loss"] == pytest.approx(float(expected), rel=1e-5)


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(InputError, match="a prompt without tokens"):
        TokenizedExample.of([], [[4, 2]])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"question": "?", "response": "4"},
            "fields question, response: expected 'messages', 'prompt' with 'response'",
        ),
        ({"prompt": "?", "responses": ["4"], "rewards": []}, "1 responses and 0 rewards"),
    ],
)
def test_another_record_is_refused(tokenizer: Any, row: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        tokenize_record(tokenizer, row)


def test_a_learned_prompt_is_refused(tiny_model: Callable[[str], Path]) -> None:
    from peft import PromptTuningConfig

    base = AutoModelForCausalLM.from_pretrained(tiny_model("llama"), dtype=torch.float32)
    model = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(InputError, match="learned prompt"):
        PackedForward(model, [TokenizedExample.of([5, 6], [[7, 2]])])
