"""Training on conversations: the loss of TRL's trainer, and tool results that carry none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plainly import alone
from transformers import AutoModelForCausalLM, AutoTokenizer

from trice import InputError, PackedForward, losses
from trice.formats.chat import chat_format
from trice.formats.prompt import prompt_template
from trice.training.clone import examples
from trice.training.packing import ResponseTokens, TokenizedExample
from trice.training.tokenization import tokenize, tokenize_record

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "stock",
            "description": "How many pieces there are.",
            "parameters": {"type": "object", "properties": {"product": {"type": "string"}}},
        },
    }
]


def record(product: str, result: str = "7", answer: str = "There are 7.") -> dict[str, Any]:
    call = {"type": "function", "function": {"name": "stock", "arguments": {"product": product}}}
    messages = [
        {"role": "user", "content": f"How many {product}s?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "stock", "content": result},
        {"role": "assistant", "content": answer},
    ]
    return {"messages": messages, "tools": TOOLS}


ROWS = [record("chair"), record("lamp", "none", "None."), {"messages": [
    {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "Bye."},
]}]  # fmt: skip


@pytest.fixture
def model(tiny_model: Callable[[str], Path]) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model("llama"), dtype=torch.float32)


@pytest.fixture
def tokenizer(tiny_model: Callable[[str], Path]) -> Any:
    """A tokenizer with the template of Qwen 2.5, or with the template for models that have none."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model("llama"))
    tokenizer.chat_template = None
    return tokenizer


def with_template(tokenizer: Any, name: str) -> Any:
    from trl import chat_template_utils

    if name == "own":
        return chat_format(tokenizer).tokenizer
    file = Path(chat_template_utils.__file__).parent / "chat_templates" / f"{name}.jinja"
    tokenizer.chat_template = file.read_text(encoding="utf-8")
    return tokenizer


@pytest.mark.parametrize("template", ["own", "qwen2_5", "qwen3"])
def test_the_loss_is_that_of_trls_trainer(template: str, model: Any, tokenizer: Any, tmp_path: Path) -> None:
    from trl import SFTConfig, SFTTrainer

    from datasets import Dataset

    tokenizer = with_template(tokenizer, template)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    model.resize_token_embeddings(len(tokenizer))
    rows = [{"messages": row["messages"], "tools": row.get("tools", [])} for row in ROWS]
    config = SFTConfig(
        output_dir=str(tmp_path), assistant_only_loss=True, per_device_train_batch_size=3, max_steps=1,
        report_to=[], use_cpu=True, bf16=False, max_length=None, eos_token="<|im_end|>", logging_steps=1,
        dataset_num_proc=None, disable_tqdm=True, learning_rate=0.0,
    )  # fmt: skip
    theirs = SFTTrainer(model, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    batch = next(iter(theirs.get_train_dataloader()))
    marked = int((batch["labels"][:, 1:] != -100).sum())
    with torch.no_grad():
        expected = model(**batch).loss

    examples = tokenize(rows, tokenizer)
    assert sum(sum(example.responses[0].loss) for example in examples) == marked
    with PackedForward(model, examples, tokenizer) as forward, torch.no_grad():
        packed = forward.pack(examples)
        ours = losses.sft_loss(forward(packed)[packed.best_N()])
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(result=st.text(alphabet="abc 0123456789\n{}<>", max_size=40))
def test_a_tools_result_carries_no_loss(result: str, tokenizer: Any) -> None:
    first, second = (tokenize_record(tokenizer, record("chair", text)) for text in ("7", result))

    def learned(example: TokenizedExample) -> list[int]:
        ids, loss = example.responses[0]
        return [token for token, marked in zip(ids, loss, strict=True) if marked]

    assert learned(first) == learned(second)
    assert first.prompt == second.prompt


def test_of_a_labeled_question_the_target_alone_carries_loss(tokenizer: Any, tmp_path: Path) -> None:
    history = record("chair")["messages"]
    row = {
        "id": "1", "messages": [*history, {"role": "user", "content": "Sure?"}], "tools": TOOLS, "output": "Yes.",
        "completion": [{"role": "assistant", "content": "Yes."}],
    }  # fmt: skip
    data = tmp_path / "labels.json"
    data.write_text(json.dumps(row) + "\n")
    (example,) = examples(data, prompt_template("chat"))(tokenizer)
    prompt, (response,) = example.prompt, example.responses
    assert tokenizer.decode(response.ids).strip() == f"Yes.{tokenizer.eos_token}"
    assert all(response.loss)
    assert "There are 7." in tokenizer.decode(prompt)


def test_the_packed_forward_masks_tool_results_and_shares_beginnings_across_turns(
    model: Any, tokenizer: Any
) -> None:
    rows = [record("chair"), record("chair", "7", "Seven."), record("chair", "none", "None.")]
    parts = tokenize(rows, tokenizer)
    together = TokenizedExample(parts[0].prompt, [part.responses[0] for part in parts], [1.0, 0.5, 0.0])
    with PackedForward(model, [together], tokenizer) as forward, torch.no_grad():
        packed = forward.pack([together])
        logps_N = forward(packed)
        expected = alone(model, together)
    for response, logps in enumerate(expected):
        torch.testing.assert_close(logps_N[packed.response_N == response], logps, rtol=1e-4, atol=1e-5)
    # the first two have the call and the result in common, all three the call
    longest = max(len(together.prompt) + len(response.ids) for response in together.responses)
    every = sum(len(together.prompt) + len(response.ids) for response in together.responses)
    assert packed.tokens_RT.numel() < every / 2 < every
    assert packed.tokens_RT.numel() >= longest - 1


def test_what_the_model_reads_changes_the_loss_through_attention_alone(model: Any, tokenizer: Any) -> None:
    (example,) = tokenize([record("chair")], tokenizer)
    ids, loss = example.responses[0]
    changed = [
        token if marked else (token + 1) % len(tokenizer) for token, marked in zip(ids, loss, strict=True)
    ]
    other = TokenizedExample(example.prompt, [ResponseTokens(changed, loss)], [0.0])
    calls = loss.index(False)  # tokens before the first result
    with torch.no_grad():
        (before,), (after,) = alone(model, example), alone(model, other)
        for each in (example, other):
            with PackedForward(model, [each], tokenizer) as forward:
                packed = forward.pack([each])
                torch.testing.assert_close(forward(packed), alone(model, each)[0], rtol=1e-4, atol=1e-5)
    assert torch.equal(before[:calls], after[:calls])
    assert len(before) == len(after) == sum(loss)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"messages": [{"role": "user", "content": "Hi"}]}, "no assistant message"),
        ({"messages": [{"role": "user"}, {"content": "Hi"}]}, "a message has the role 'None'"),
    ],
)
def test_a_conversation_that_cannot_be_learned_is_refused(
    row: dict[str, Any], complaint: str, tokenizer: Any
) -> None:
    with pytest.raises(InputError, match=complaint):
        tokenize([row], tokenizer)
