"""Throughput of rollouts with tool calls against transformers' `generate` in a loop.

All continue the same conversations greedily, execute the same calls and read their results. Two loops are measured:
`one by one` generates each turn of each conversation alone, and `turn by turn` generates the same turn of a batch
of conversations at once, left-padded, and waits for the longest. Each repetition runs rollouts and both loops in
turn, so that another load on the machine meets all of them; the ratio of processor times depends on such a load
less than that of the times. Tokens have to be equal; where two logits are nearly equal, batched arithmetic may
choose the other, so the script prints the share of equal conversations and fails below 90%.

A small model without a trained adapter makes few calls, so the prompt holds an example, and every first message is
made to begin a call.

    python benchmarks/rollouts.py MODEL --questions 16 --max-new-tokens 64 --turns 3 --repeat 3
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import torch

from trice.formats.chat import ChatFormat, result_message
from trice.models.local import LocalModel, load
from trice.models.sampling import Sampling
from trice.stages.rollouts import Conversation, rollouts
from trice.tools.calculator import Calculator
from trice.tools.call_text import function_schema
from trice.tools.worker_pool import run
from trice.types import Execution, Message, Outcome, ToolCall


def conversations(chat: ChatFormat, count: int) -> list[Conversation]:
    """Two-step problems, after an example of one that is solved in two calls."""
    schemas = [function_schema(Calculator())]

    def call(expression: str) -> Message:
        arguments = {"expression": expression}
        return Message(role="assistant", tool_calls=[ToolCall(name=Calculator.name, arguments=arguments)])

    def result(text: str) -> Message:
        return Message(role="tool", name=Calculator.name, content=text)

    example = [
        Message(role="system", content="Solve the problem step by step; the calculator computes an expression."),
        Message(role="user", content="A box holds 12 rows of 17 eggs. 25 eggs break. How many are left?"),
        call("12 * 17"), result("204"), call("204 - 25"), result("179"),
        Message(role="assistant", content="There are 179 eggs left."),
    ]  # fmt: skip
    problems = (
        f"A shop sells {n + 23} pens at {n % 7 + 12} dollars each and pays {n + 31} dollars of rent. What does it earn?"
        for n in range(count)
    )
    return [
        Conversation(
            chat.prompt([*example, Message(role="user", content=text)], schemas),
            [Calculator()],
            str(number),
            offered=schemas,
        )
        for number, text in enumerate(problems)
    ]


class Loop:
    """`generate` in a loop over batches of `size` conversations, turn by turn."""

    def __init__(
        self, loaded: LocalModel, chat: ChatFormat, opening: list[int], tokens: int, turns: int
    ) -> None:
        self.loaded, self.chat, self.opening, self.tokens, self.turns = loaded, chat, opening, tokens, turns
        self.ends = loaded.eos_ids | chat.end_ids

    def __call__(self, asked: Sequence[Conversation], size: int) -> list[list[int]]:
        """The token ids after each prompt."""
        found: list[list[int]] = []
        for start in range(0, len(asked), size):
            found += self._batch(asked[start : start + size])
        return found

    def _batch(self, asked: Sequence[Conversation]) -> list[list[int]]:
        ids = [list(self.opening) for _ in asked]
        starts = [0] * len(asked)  # of the current messages
        active = list(range(len(asked)))
        for turn in range(self.turns):
            written = self._generate([[*asked[number].prompt, *ids[number]] for number in active])
            for number, new in zip(active, written, strict=True):
                ids[number] += new
            if turn < self.turns - 1:
                active = [
                    number for number in active if self._read(asked[number], ids[number], starts, number)
                ]
            if not active:
                break
        return ids

    def _read(self, asked: Conversation, ids: list[int], starts: list[int], number: int) -> bool:
        """Execute the calls of the last message and append their results; false if the conversation has ended."""
        schemas, start = [function_schema(tool) for tool in asked.tools], starts[number]
        parsed = self.chat.parse(ids[start:], [*asked.prompt, *ids[:start]], schemas)
        if parsed.outcome is not Outcome.CALLED or ids[-1] not in self.ends:
            return False
        results = [result_message(call, executed(asked, call)) for call in parsed.message.tool_calls]
        ids += self.chat.results(parsed.message, results, ids[-1])
        starts[number] = len(ids)
        return True

    @torch.inference_mode()
    def _generate(self, contexts: Sequence[Sequence[int]]) -> list[list[int]]:
        """The next message of each context, with its end token."""
        width = max(map(len, contexts))
        pads = [width - len(each) for each in contexts]
        tokens = [[0] * pad + list(each) for pad, each in zip(pads, contexts, strict=True)]
        mask = [[0] * pad + [1] * (width - pad) for pad in pads]
        output = self.loaded.model.generate(
            torch.tensor(tokens, device=self.loaded.device),
            attention_mask=torch.tensor(mask, device=self.loaded.device),
            max_new_tokens=self.tokens, do_sample=False, eos_token_id=sorted(self.ends), pad_token_id=0,
        )  # fmt: skip
        return [self._until_end(row) for row in output[:, width:].tolist()]

    def _until_end(self, ids: list[int]) -> list[int]:
        ends = [place for place, token in enumerate(ids) if token in self.ends]
        return ids[: ends[0] + 1] if ends else ids


def executed(asked: Conversation, call: ToolCall) -> Execution:
    tool = next((tool for tool in asked.tools if tool.name == call.name), None)
    if tool is None:
        return Execution(error=f"there is no tool '{call.name}'; the tools are: {asked.tools[0].name}")
    return run(tool, call)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument(
        "--batch-size", type=int, default=16, help="of the rollouts, and of the loop over turns"
    )
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    loaded = load(options.model, device=options.device, dtype="float32")
    chat = loaded.chat_format()
    asked = conversations(chat, options.questions)
    opening = chat.call_opening()
    loop = Loop(loaded, chat, opening, options.max_new_tokens, options.turns)

    messages: list[int] = []  # of each conversation

    def ours() -> list[list[int]]:
        sampling = Sampling(max_new_tokens=options.max_new_tokens)
        found = {
            number: rollout
            for number, _, rollout in rollouts(
                loaded, chat, asked, sampling,
                max_turns=options.turns, opening=opening, batch_size=options.batch_size,
            )
        }  # fmt: skip
        messages[:] = [rollout.turns for rollout in found.values()]
        return [found[number].ids for number in range(len(asked))]

    def timed(name: str, continued: Callable[[], list[list[int]]]) -> tuple[float, float]:
        started, processor = time.perf_counter(), time.process_time()
        ids = continued()
        seconds, processor = time.perf_counter() - started, time.process_time() - processor
        same = sum(one == other for one, other in zip(ids, expected, strict=True)) if expected else len(ids)
        expected[:] = expected or ids
        print(
            f"  {name:12} {seconds:7.2f} s, processor {processor:7.2f} s, "
            f"{sum(map(len, ids)) / seconds:7.1f} tokens/s; {same} of {len(ids)} conversations in the same tokens",
            flush=True,
        )
        if same < 0.9 * len(ids):
            raise SystemExit(f"{name} wrote other tokens")
        return seconds, processor

    expected: list[list[int]] = []
    list(
        rollouts(loaded, chat, asked[:1], Sampling(max_new_tokens=1))
    )  # the model is checked before the first
    ratios: dict[str, list[tuple[float, float]]] = {"turn by turn": [], "one by one": []}
    for number in range(options.repeat):
        print(f"repetition {number + 1}, load {os.getloadavg()[0]:.1f}")
        own = timed("rollouts", ours)
        for name, size in (("turn by turn", options.batch_size), ("one by one", 1)):
            theirs = timed(name, partial(loop, asked, size))
            ratios[name].append((theirs[0] / own[0], theirs[1] / own[1]))
    print(
        f"{len(asked)} conversations in {sum(messages)} messages of the model, prompts of {len(asked[0].prompt)} tokens"
    )
    for name, pairs in ratios.items():
        times, processors = zip(*pairs, strict=True)
        print(
            f"rollouts are {median(times):.2f} times as fast as {name} ({min(times):.2f} to {max(times):.2f}), "
            f"by processor time {median(processors):.2f} times ({min(processors):.2f} to {max(processors):.2f})"
        )


if __name__ == "__main__":
    main()
