"""Rollouts with tool calls: our batch against transformers' `generate`, one turn of one conversation after the other.

Both continue the same conversations greedily, run the same calls and read their results in the same tokens. The script
checks that both write the same tokens (where two logits are nearly equal, batched arithmetic may decide otherwise, so
it prints the share), and prints the ratio of the times. The model is any folder with a chat template; without a trained
adapter it makes few calls, so every first message is made to begin one.

    python benchmarks/rollouts.py MODEL --questions 16 --max-new-tokens 48 --turns 2
"""

from __future__ import annotations

import argparse
import time

import torch

from trice.formats.chat import ChatFormat, chat_format, result_text
from trice.models.local import LocalModel, load
from trice.models.sampling import Sampling
from trice.stages.rollouts import Conversation, rollouts
from trice.tools.calculator import Calculator
from trice.tools.call_text import function_schema
from trice.tools.worker_pool import run
from trice.types import Execution, Message, Outcome, ToolCall


def conversations(chat: ChatFormat, count: int) -> list[Conversation]:
    schemas = [function_schema(Calculator())]
    system = Message(role="system", content="Solve the problem; the calculator computes an expression.")
    problems = (
        f"A shop sells {n + 3} pens at {n % 7 + 2} dollars each. What does it earn?" for n in range(count)
    )
    return [
        Conversation(
            chat.prompt([system, Message(role="user", content=text)], schemas), [Calculator()], str(number)
        )
        for number, text in enumerate(problems)
    ]


@torch.inference_mode()
def plain(
    loaded: LocalModel, chat: ChatFormat, asked: Conversation, opening: list[int], tokens: int, turns: int
) -> list[int]:
    """The token ids after the prompt, by `generate` for each turn."""
    schemas = [function_schema(tool) for tool in asked.tools]
    prompt, ids = asked.prompt, list(opening)
    for turn in range(turns):
        context = torch.tensor([[*prompt, *ids]])
        start = len(ids) - len(opening) if turn == 0 else len(ids)
        out = loaded.model.generate(
            context, attention_mask=torch.ones_like(context), max_new_tokens=tokens, do_sample=False
        )
        ids += out[0, context.shape[1] :].tolist()
        parsed = chat.parse(ids[start:], [*prompt, *ids[:start]], schemas)
        if parsed.outcome is not Outcome.CALLED or ids[-1] not in loaded.eos_ids or turn == turns - 1:
            break
        results = [
            Message(role="tool", name=call.name, content=result_text(executed(asked, call)))
            for call in parsed.message.tool_calls
        ]
        ids += chat.results(parsed.message, results, ids[-1])
    return ids


def executed(asked: Conversation, call: ToolCall) -> Execution:
    tool = next((tool for tool in asked.tools if tool.name == call.name), None)
    if tool is None:
        return Execution(error=f"there is no tool '{call.name}'; the tools are: {asked.tools[0].name}")
    return run(tool, call)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    loaded = load(options.model, device=options.device, dtype="float32")
    chat = chat_format(loaded.tokenizer)
    asked = conversations(chat, options.questions)
    opening = chat.call_opening()
    sampling = Sampling(max_new_tokens=options.max_new_tokens)

    started = time.perf_counter()
    found = {
        number: rollout.ids
        for number, _, rollout in rollouts(
            loaded, chat, asked, sampling, max_turns=options.turns, opening=opening
        )
    }
    ours = time.perf_counter() - started
    started = time.perf_counter()
    expected = [plain(loaded, chat, each, opening, options.max_new_tokens, options.turns) for each in asked]
    theirs = time.perf_counter() - started
    same = sum(found[number] == ids for number, ids in enumerate(expected))
    total = sum(map(len, expected))
    print(f"{options.questions} conversations, {total} tokens; {same} of {len(expected)} in the same tokens")
    print(f"plain {theirs:.2f} s, ours {ours:.2f} s: {theirs / ours:.1f} times as fast")
    if same < 0.9 * len(expected):
        raise SystemExit("the two wrote different tokens")


if __name__ == "__main__":
    main()
