"""A tiny model that has learned to call tools continues conversations: several calls and turns, limits, failures."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import trice
from tiny import for_tool_calls, forked, write
from trice import PackedForward, losses
from trice.errors import ToolUnavailable
from trice.formats.chat import MAX_RESULT, ChatFormat, chat_format
from trice.formats.prompt import prompt_template
from trice.models.local import LocalModel, load
from trice.models.sampling import Sampling
from trice.stages.generate import generate
from trice.stages.model_spec import ModelSpec
from trice.stages.rollouts import Conversation, Rollout, rollouts
from trice.tasks import Tasks
from trice.tools.call_text import function_schema
from trice.training.tokenization import tokenize_conversation
from trice.types import Message, Outcome, ToolCall

LONG = Sampling(max_new_tokens=120)


@trice.tool(workers=4)
def stock(product: str) -> str:
    """Pieces."""
    if product == "ghost":
        raise ValueError("no such product")
    if product == "wall":
        return "x" * 5000
    time.sleep(0.05)
    return {"chair": "7", "lamp": "9"}[product]


def calls(*names: str, tool: str = "stock") -> Message:
    return Message(
        role="assistant", tool_calls=[ToolCall(name=tool, arguments={"product": name}) for name in names]
    )


def result(text: str) -> Message:
    return Message(role="tool", name="stock", content=text)


def said(text: str) -> Message:
    return Message(role="assistant", content=text)


ERROR = "Error: stock failed: no such product (ValueError)"
LESSONS: dict[str, list[Message]] = {
    "chair?": [calls("chair"), result("7"), said("7 chairs.")],
    "both?": [calls("chair", "lamp"), result("7"), result("9"), said("7 and 9.")],
    "one by one?": [calls("chair"), result("7"), calls("lamp"), result("9"), said("7, then 9.")],
    "ghost?": [calls("ghost"), result(ERROR), said("None.")],
    "unknown?": [calls("x", tool="search")],
    "wall?": [calls("wall")],
    "hello": [said("Hi.")],
    "bad?": [said('<tool_call>\n{"name": "stock", \n</tool_call>')],
}


def asked(chat: ChatFormat, text: str, *tools: Any) -> Conversation:
    tools = tools or (stock,)
    offered = [function_schema(tool) for tool in tools]
    prompt = chat.prompt([Message(role="user", content=text)], offered)
    return Conversation(prompt, tools, key=text, offered=offered)


@pytest.fixture(scope="module")
def policy(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    """A tiny model that knows the lessons by heart."""
    folder, tools = tmp_path_factory.mktemp("policy"), [function_schema(stock)]
    for_tool_calls(tiny_model("llama"), folder, "", tools)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    chat = chat_format(tokenizer)
    examples = [
        tokenize_conversation(chat, [Message(role="user", content=text), *lesson], tools)
        for text, lesson in LESSONS.items()
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with PackedForward(model, examples, tokenizer) as forward:
        packed = forward.pack(examples)
        for _ in range(400):
            loss = losses.sft_loss(forward(packed)[packed.best_N()])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if loss.item() < 5e-3:
                break
    assert loss.item() < 0.02
    model.save_pretrained(folder)
    return load(str(folder), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def chat(policy: LocalModel) -> ChatFormat:
    return chat_format(policy.tokenizer)


def run(policy: LocalModel, chat: ChatFormat, *texts: str, **options: Any) -> list[Rollout]:
    conversations = [asked(chat, text) for text in texts]
    found = {number: each for number, _, each in rollouts(policy, chat, conversations, LONG, **options)}
    return [found[number] for number in range(len(texts))]


def test_calls_are_executed_and_their_results_read(policy: LocalModel, chat: ChatFormat) -> None:
    texts = ["chair?", "both?", "one by one?", "ghost?", "hello"]
    for text, rollout in zip(texts, run(policy, chat, *texts), strict=True):
        assert rollout.messages == LESSONS[text], text
        assert rollout.complete
        assert rollout.answer == LESSONS[text][-1].content
    one, both, steps, ghost, hello = run(policy, chat, *texts)
    assert [each.outcome for each in (one, both, steps, ghost)] == [Outcome.CALLED] * 4
    assert hello.outcome is Outcome.ANSWERED
    assert [each.output for each in both.executions] == ["7", "9"]
    assert steps.calls == [*calls("chair").tool_calls, *calls("lamp").tool_calls]
    assert ghost.executions[0].error is not None


def test_what_is_trained_on_are_the_tokens_that_were_sampled(policy: LocalModel, chat: ChatFormat) -> None:
    tools = [function_schema(stock)]
    for text, rollout in zip(
        ("both?", "one by one?"), run(policy, chat, "both?", "one by one?"), strict=True
    ):
        example = tokenize_conversation(chat, [Message(role="user", content=text), *LESSONS[text]], tools)
        assert (rollout.prompt, rollout.ids) == (example.prompt, example.responses[0].ids)
        assert rollout.loss == example.responses[0].loss


def test_the_batch_changes_nothing(policy: LocalModel, chat: ChatFormat) -> None:
    texts = ["one by one?", "hello", "both?", "chair?", "ghost?", "hello"]
    together, apart = run(policy, chat, *texts), run(policy, chat, *texts, batch_size=1)
    assert [each.ids for each in together] == [each.ids for each in apart]
    sampling = Sampling(max_new_tokens=30, temperature=2.0, seed=5)
    conversations = [asked(chat, text)._replace(samples=range(3)) for text in ("chair?", "hello")]
    drawn = {
        size: {
            (number, sample): rollout.ids
            for number, sample, rollout in rollouts(policy, chat, conversations, sampling, batch_size=size)
        }
        for size in (1, 8)
    }
    assert drawn[1] == drawn[8]
    assert set(drawn[8]) == {(number, sample) for number in (0, 1) for sample in range(3)}
    assert len({tuple(ids) for ids in drawn[8].values()}) > 2


@pytest.mark.parametrize(("batch_size", "kept"), [(8, True), (1, False)])
def test_each_token_of_a_conversation_is_computed_once(
    policy: LocalModel, chat: ChatFormat, batch_size: int, kept: bool
) -> None:
    run(policy, chat, "hello")  # the model is checked before it generates first
    widths: list[int] = []
    hook = policy.model.base_model.register_forward_pre_hook(
        lambda module, args, inputs: widths.append(inputs["input_ids"].shape[1]), with_kwargs=True
    )
    (steps,) = run(policy, chat, "one by one?", batch_size=batch_size)
    hook.remove()
    context = len(steps.prompt) + len(steps.ids)
    assert (sum(widths) == context - 1) is kept  # the last token is not read
    assert (sum(widths) > 2 * context) is not kept


def test_limits_end_a_rollout(policy: LocalModel, chat: ChatFormat) -> None:
    (steps,) = run(policy, chat, "one by one?", max_turns=1)
    assert (steps.messages, steps.complete, steps.answer) == (LESSONS["one by one?"][:2], False, None)
    assert not steps.loss.count(False)  # the result is not read, so it is not in the tokens
    (short,) = [
        each for _, _, each in rollouts(policy, chat, [asked(chat, "chair?")], Sampling(max_new_tokens=3))
    ]
    assert (short.complete, len(short.ids), short.outcome) == (False, 3, Outcome.MALFORMED)
    (wall,) = run(policy, chat, "wall?", max_turns=1)
    assert len(wall.messages[1].content) == MAX_RESULT


def test_malformed_calls_and_unknown_tools_are_data(policy: LocalModel, chat: ChatFormat) -> None:
    bad, unknown = run(policy, chat, "bad?", "unknown?", max_turns=1)
    assert (bad.outcome, bad.executions, bad.answer) == (Outcome.MALFORMED, [], None)
    assert "not valid JSON" in str(bad.reason)
    assert unknown.messages[1].content == "Error: there is no tool 'search'; the tools are: stock"


def test_a_tool_that_cannot_run_stops_the_rollouts(policy: LocalModel, chat: ChatFormat) -> None:
    @trice.tool
    def stock(product: str) -> str:
        """Pieces."""
        raise ToolUnavailable("the warehouse is down")

    with pytest.raises(ToolUnavailable, match="the warehouse is down"):
        list(rollouts(policy, chat, [asked(chat, "hello", stock), asked(chat, "chair?", stock)], LONG))


def counting_stock(ledger: Path, dies_at: str = "") -> Any:
    """A tool without a version that writes each of its runs to a file, and may kill its process in one."""

    @trice.tool
    def stock(product: str) -> str:
        """Pieces."""
        with ledger.open("a") as file:
            file.write(f"{product}\n")
        if product == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"chair": "7", "lamp": "9"}[product]

    return stock


def generate_responses(folder: Path, model: str, dies_at: str = "") -> None:
    task = trice.Task("shop", "", tools=[counting_stock(folder / "ledger", dies_at)])
    spec = ModelSpec(model, template=prompt_template("chat"), sampling=LONG, device="cpu", dtype="float32")
    generate(folder / "questions.json", folder / "responses.json", Tasks(task), spec)


def test_after_a_kill_no_finished_call_is_run_again(policy: LocalModel, tmp_path: Path) -> None:
    question = {"id": "S_1", "input": "one by one?", "answer": "9"}
    write(tmp_path / "questions.json", [question])
    assert forked(generate_responses, tmp_path, policy.name, "lamp") == -signal.SIGKILL
    ledger = tmp_path / "ledger"
    assert ledger.read_text().split() == ["chair", "lamp"]
    generate_responses(tmp_path, policy.name)
    assert ledger.read_text().split() == ["chair", "lamp", "lamp"]
    assert not list(tmp_path.glob(".*.calls*"))


def test_equal_calls_run_once_while_a_file_is_made(
    policy: LocalModel, chat: ChatFormat, tmp_path: Path
) -> None:
    stock, ledger = counting_stock(tmp_path / "ledger"), tmp_path / "ledger"
    conversations = [asked(chat, text, stock) for text in ("chair?", "both?", "one by one?")]
    for output, runs in ((tmp_path / "x", 2), (tmp_path / "x", 2), (None, 7), (None, 12)):
        list(rollouts(policy, chat, conversations, LONG, output=output))
        assert len(ledger.read_text().split()) == runs
