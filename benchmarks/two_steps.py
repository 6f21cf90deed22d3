"""Two-step problems: a call for each step against one expression, with the same model, questions and steps of training.

Training questions are the word problems of the starter sets with one and with several operations. Once each operation
is a call, whose result the model reads before it writes the next one, and once the whole problem is one call. Both
models answer MultiArith and the questions of GSM8K with two operations, which nothing was trained on. TRICE_DATA names
the folder of the official files.

    python benchmarks/two_steps.py smollm2-135m-instruct --output runs/two-steps
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import trice
from trice.datasets import load, starter_math
from trice.datasets.expressions import operations
from trice.types import Question


def questions(count: int, seed: int) -> list[Question]:
    """Starter problems with whole steps, half of them with several operations."""
    made, _, _ = load(starter_math.NAME, train=2000, test=0, seed=seed)
    turns = {row.id: operations((row.model_extra or {})["expression"]) for row in made}
    several = [row for row in made if len(turns[row.id]) == 2][: count // 2]
    single = [row for row in made if len(turns[row.id]) == 1][: count - len(several)]
    chosen = [*several, *single]
    random.Random(seed).shuffle(chosen)
    return chosen


def with_calls(row: Question) -> Question:
    """The question with one call for each operation."""
    expression = (row.model_extra or {})["expression"]
    calls = [
        [{"name": "calculator", "arguments": {"expression": each}} for each in turn]
        for turn in operations(expression)
    ]
    return Question.model_validate(row.model_dump(exclude_none=True) | {"gold_calls": calls})


def short_gsm8k(count: int, seed: int) -> list[Question]:
    """Test questions of GSM8K whose gold expression has two operations."""
    _, rows, _ = load("GSM8K", train=0, test=1319, seed=seed)
    gold = [((row.model_extra or {}).get("expression"), row) for row in rows]
    return [row for text, row in gold if text and sum(map(len, operations(text))) == 2][:count]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--train", type=int, default=320)
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model = trice.load(options.model, format="chat")
    _, multiarith, _ = load("MultiArith", train=0, test=options.test, seed=options.seed)
    test = [*multiarith, *short_gsm8k(options.test, options.seed)]
    train = questions(options.train, options.seed)
    models = {}
    for name, rows in {"one expression": train, "several calls": list(map(with_calls, train))}.items():
        labels = trice.label(rows, "math", teacher="annotations")
        print(f"{name}: {len(labels)} labels of {len(rows)} questions", flush=True)
        models[name] = trice.clone(
            model, labels, "math", output=options.output / name.replace(" ", "-"),
            num_train_epochs=options.epochs, learning_rate=options.learning_rate,
            batch_size=options.batch_size, token_budget=2048, warmup_steps=4,
            lora={"r": 16, "lora_alpha": 32, "lora_dropout": 0, "target_modules": "all-linear"}, seed=options.seed,
        )  # fmt: skip
    found = trice.evaluate(models, test, "math", max_new_tokens=64)
    print(found)
    print("several calls minus one expression:", found.difference("several calls", "one expression"))
    for name in models:
        calls = [len(row.calls) for row in found.responses[name]]
        print(f"{name}: {sum(calls) / len(calls):.2f} calls a question")


if __name__ == "__main__":
    main()
