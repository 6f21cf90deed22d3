"""BFCL before and after training on ToolRL's conversations, with the model's native calls.

Stage 1 trains on ToolRL's short conversations, and on some of their questions with the tools of others, which nothing
can answer. RLEF samples responses to the same questions and judges them by the expected calls. The base model, stage 1
and both answer questions of six categories of BFCL, which are judged by BFCL's rule. No question of BFCL is trained on:
the overlap is printed. TRICE_DATA names the folder that holds `bfcl` and `toolrl`.

    python benchmarks/function_calling.py smollm2-135m-instruct --limit 40 --output runs/function-calling
"""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path

import trice
from trice.datasets.bfcl import read_bfcl
from trice.datasets.conversations import ConversationRow
from trice.datasets.overlap import check_overlap
from trice.datasets.toolrl import read_toolrl
from trice.formats.chat import chat_format
from trice.models.local import load_tokenizer
from trice.training_data import LabeledQuestion
from trice.types import Message, Question

CATEGORIES = ("simple_python", "multiple", "parallel", "irrelevance", "live_simple", "live_relevance")
REFUSAL = "None of the tools can answer this."


def short_rows(model: str, rows: list[ConversationRow], longest: int) -> list[ConversationRow]:
    """The rows whose rendered conversation has at most `longest` tokens."""
    chat = chat_format(load_tokenizer(model))
    found = []
    for row in rows:
        ids = chat.render([*(row.question.messages or ()), *row.completion], row.question.tools or []).ids
        if len(ids) <= longest:
            found.append(row)
    return found


def names(row: ConversationRow) -> set[str]:
    return {tool["function"]["name"] for tool in row.question.tools or ()}


def refused(rows: list[ConversationRow], count: int, rng: random.Random) -> list[ConversationRow]:
    """Questions of the rows with the tools of others, and a sentence as the response."""
    called = [row for row in rows if row.completion[0].tool_calls and len(row.question.messages or ()) == 1]
    found = []
    for row in rng.sample(called, min(count, len(called))):
        other = rng.choice([each for each in rows if not names(each) & names(row)])
        changed = {"tools": other.question.tools, "expected_calls": [], "id": f"{row.question.id}-refused"}
        question = Question.model_validate(row.question.model_dump(exclude_none=True) | changed)
        found.append(ConversationRow(question, [Message(role="assistant", content=REFUSAL)]))
    return found


def label(row: ConversationRow) -> LabeledQuestion:
    fields = row.question.model_dump(exclude_none=True) | {
        "completion": row.completion,
        "output": "(conversation)",
    }
    return LabeledQuestion.model_validate(fields)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=40, help="questions of each category")
    parser.add_argument("--longest", type=int, default=450, help="tokens of a training conversation")
    parser.add_argument("--refused", type=int, default=50, help="training questions without a tool that fits")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder, rng = Path(os.environ["TRICE_DATA"]), random.Random(options.seed)
    test = []
    for category in CATEGORIES:
        rows = read_bfcl(folder / "bfcl", category)
        test += random.Random(options.seed).sample(rows, min(options.limit, len(rows)))
    read = read_toolrl(folder / "toolrl" / "rlla_sft.json").rows
    train = short_rows(options.model, [row for row in read if row.completion], options.longest)
    train += refused(train, options.refused, rng)
    every = [row for category in CATEGORIES for row in read_bfcl(folder / "bfcl", category)]
    overlap = check_overlap([row.question for row in train], every)
    shared = f"{len(overlap.exact)} exact, {len(overlap.near)} near"
    print(f"{len(train)} conversations to train on; shared with BFCL: {shared}", flush=True)
    model = trice.load(options.model, format="chat")
    how = {
        "batch_size": 8, "token_budget": 2048, "seed": options.seed,
        "lora": {"r": 16, "lora_alpha": 32, "lora_dropout": 0, "target_modules": "all-linear"},
    }  # fmt: skip

    def evaluate(name: str, policy: trice.Model) -> None:
        found = trice.evaluate(
            {name: policy}, test, "conversation", max_new_tokens=160, output=options.output / "evaluated"
        )
        policy.unload()  # its weights and caches; the next model has its own
        print(found, flush=True)

    evaluate("base", model)
    stage1 = trice.clone(
        model, map(label, train), "conversation", output=options.output / "stage-1",
        num_train_epochs=options.epochs, learning_rate=5e-4, **how,
    )  # fmt: skip
    evaluate("stage 1", stage1)
    both = trice.rlef(
        stage1, [row.question for row in train], "conversation", samples=4, max_samples=8, cost=0,
        max_new_tokens=160, output=options.output / "both", learning_rate=2e-4, **how,
    )  # fmt: skip
    evaluate("both", both)


if __name__ == "__main__":
    main()
