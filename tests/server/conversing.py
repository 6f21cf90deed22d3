"""A tiny model that has learned conversations by heart: calls of a server's tool, of a client's, and of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serving_tools import stock

from tiny import for_tool_calls
from trice.tools.call_text import function_schema
from trice.tools.function_tool import as_tool
from trice.types import Message, ToolCall

INSTRUCTION = "Answer, or call."  # of `serving.tool_task`
SYSTEM = "You are a clerk.\nBe brief.\n\n- Use the tools.\n"
STOCK = function_schema(as_tool(stock))
PRICE = {
    "type": "function",
    "function": {
        "name": "price",
        "description": "What a product costs.",
        "parameters": {
            "type": "object",
            "properties": {"product": {"type": "string"}},
            "required": ["product"],
        },
    },
}


def said(text: str) -> Message:
    return Message(role="assistant", content=text)


def asked(text: str) -> Message:
    return Message(role="user", content=text)


def calls(*calls: tuple[str, str], text: str = "") -> Message:
    made = [ToolCall(name=name, arguments={"product": product}) for name, product in calls]
    return Message(role="assistant", content=text, tool_calls=made)


def result(name: str, text: str) -> Message:
    return Message(role="tool", name=name, content=text)


UNKNOWN = "Error: there is no tool 'search'; the tools are: price"
# One token each, so that training takes seconds.
WORDS = ["<tool_response>", "</tool_response>", 'product": "', "user\n", "assistant\n", "price", "stock", "chair",
         "lamp", UNKNOWN]  # fmt: skip
CHAIR, LAMP = ("price", "chair"), ("price", "lamp")
# The system prompt, the tools on offer, and the conversations.
LESSONS: list[tuple[str, list[dict[str, Any]], list[list[Message]]]] = [
    ("", [PRICE], [
        [asked("chair?"), calls(CHAIR), result("price", "7"), said("It costs 7."), asked("lamp?"), calls(LAMP),
         result("price", "9"), said("That is 9.")],
        [asked("both?"), calls(CHAIR, LAMP), result("price", "7"), result("price", "9"), said("7 and 9.")],
        [asked("hello"), said("Hi, you.")],
        [asked("bad?"), said('Well: <tool_call>\n{"name": "price", \n</tool_call>')],
        [asked("look?"), calls(("search", "chair")), result("search", UNKNOWN), said("I cannot.")],
    ]),
    (SYSTEM, [PRICE], [[asked("chair?"), calls(LAMP, text="Let me see."), result("price", "9"), said("The lamp.")]]),
    ("", [], [[asked("hello"), said("Who is there?"), asked("me"), said("Ah.")]]),
    (INSTRUCTION, [STOCK], [
        [asked("chair?"), calls(("stock", "chair"), text="Counting."), result("stock", "7"), said("7 pieces.")],
        [asked("both?"), calls(("stock", "chair"), ("stock", "lamp")), result("stock", "7"), result("stock", "9"),
         said("7 and 9.")],
        [asked("hello"), said("Good day.")],
        [asked("silent?"), calls(("stock", "lamp")), result("stock", "9"), said("")],
    ]),
    (INSTRUCTION, [STOCK, PRICE], [
        [asked("cost?"), calls(CHAIR), result("price", "5"), said("It is 5.")],
        [asked("mixed?"), calls(("stock", "chair"), CHAIR), result("stock", "7"), result("price", "5"), said("?")],
        [asked("first?"), calls(("stock", "chair")), result("stock", "7"), calls(LAMP), result("price", "5"),
         said("7 for 5.")],
    ]),
]  # fmt: skip


def conversing(source: Path, folder: Path) -> Path:
    """A copy of the tiny Llama in `source` that knows the lessons."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trice import PackedForward, losses
    from trice.formats.chat import chat_format
    from trice.training.tokenization import tokenize_conversation

    for_tool_calls(source, folder, "", [PRICE])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(WORDS)
    for system, tools, _ in LESSONS:
        _add_beginning(tokenizer, system, tools)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(1)
    model.resize_token_embeddings(len(tokenizer))
    chat = chat_format(tokenizer)
    examples = [
        tokenize_conversation(chat, [*_system(system), *messages], tools)
        for system, tools, conversations in LESSONS
        for messages in conversations
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with PackedForward(model, examples, tokenizer) as forward:
        packed = forward.pack(examples)
        for _ in range(500):
            loss = losses.sft_loss(forward(packed)[packed.best_N()])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if loss.item() < 4e-3:
                break
    assert loss.item() < 0.02
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _system(text: str) -> list[Message]:
    return [Message(role="system", content=text)] if text else []


def _add_beginning(tokenizer: Any, system: str, tools: Sequence[dict[str, Any]]) -> None:
    """Give a tokenizer one token for what every prompt with this system prompt and these tools begins with."""
    from trice.formats.chat import chat_format

    chat = chat_format(tokenizer)
    if system or tools:
        prompt = chat.tokenizer.decode(chat.prompt([*_system(system), asked("-")], tools))
        tokenizer.add_tokens([prompt.partition("<|im_end|>")[0].partition("\n")[2]])
