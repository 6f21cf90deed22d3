"""Labels against answers: stage 1 on a few labeled questions, and RLEF on the answers of the others.

The questions are those of ASDiv and SVAMP (1,752 to train on, 466 for testing; TRICE_DATA names the folder of the
official files). The first `--labels` of them, in an order that the seed decides, have expressions; of the others only
the answers are used. Stage 1 trains on the labels, RLEF on the answers. Both models answer the test questions and
MultiArith, on which nothing is trained. Killed and started again, the benchmark resumes. Each evaluation is one line of
`results.jsonl`.

    python benchmarks/labels_or_answers.py smollm2-135m-instruct --labels 300 --seed 0 --output runs/labels-300
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import trice
from trice.datasets import load
from trice.settings import override
from trice.types import Question, Response

TRAINING: dict[str, Any] = {
    "batch_size": 8,
    "token_budget": 2048,
    "lora": {"r": 16, "lora_alpha": 32, "lora_dropout": 0, "target_modules": "all-linear"},
}


def questions(seed: int) -> tuple[list[Question], list[Question]]:
    """The training questions in the seed's order, and the test questions."""
    parts = [load("ASDiv", train=952, test=266), load("SVAMP", train=800, test=200)]
    train = [row for part in parts for row in part.train]
    random.Random(seed).shuffle(train)
    return train, [row for part in parts for row in part.test]


def without_labels(rows: list[Question]) -> list[Question]:
    """The questions without their expressions."""
    names = ("id", "dataset", "input", "instruction", "answer")
    return [Question.model_validate({name: getattr(row, name) for name in names}) for row in rows]


def record(options: argparse.Namespace, name: str, rows: list[Response], seconds: float) -> None:
    """Append one evaluation to the results."""
    by_set = {each: [row for row in rows if row.dataset == each] for each in {row.dataset for row in rows}}
    shown = {
        each: round(100 * sum(bool(row.correct) for row in part) / len(part), 1)
        for each, part in by_set.items()
    }
    calls = sum(row.outcome == "called" for row in rows) / len(rows)
    line = {
        "model": name, "labels": options.labels, "seed": options.seed, "accuracy": shown, "calls": round(calls, 3),
        "seconds": round(seconds), "right": [row.id for row in rows if row.correct],
    }  # fmt: skip
    print({key: value for key, value in line.items() if key != "right"}, flush=True)
    with (options.output / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--labels", type=int, default=300)
    parser.add_argument("--answers", type=int, default=1752, help="at most so many questions for RLEF")
    parser.add_argument("--multiarith", type=int, default=600, help="questions of MultiArith")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=float, default=2, help="of stage 1")
    parser.add_argument("--name", default="both", help="of this variant of RLEF")
    parser.add_argument("settings", nargs="*", help="key=value for trice.rlef, such as rounds=2 or alpha=0")
    options = parser.parse_intermixed_args()
    chosen: dict[str, Any] = {
        "rounds": 2, "samples": 4, "max_samples": 32, "num_train_epochs": 1, "learning_rate": 3e-4,
        "lr_scheduler_type": "linear", "alpha": 0, "candidates": 1,
    }  # fmt: skip
    for text in options.settings:
        override(chosen, text)
    train, test = questions(options.seed)
    _, unseen, _ = load("MultiArith", train=0, test=options.multiarith)
    labeled, others = train[: options.labels], train[options.labels :][: options.answers]
    model = trice.load(options.model)
    labels = trice.label(labeled, "math", teacher="annotations", output=options.output / "labels")

    def finished(name: str, policy: trice.Model) -> None:
        start = time.perf_counter()
        rows = trice.evaluate(
            policy, [*test, *unseen], "math", max_new_tokens=40, output=options.output / f"evaluated-{name}"
        )
        record(options, name, next(iter(rows.responses.values())), time.perf_counter() - start)
        policy.unload()

    stage1 = trice.clone(
        model, labels, "math", output=options.output / "stage-1", num_train_epochs=options.epochs,
        learning_rate=5e-4, seed=options.seed, **TRAINING,
    )  # fmt: skip
    finished("stage-1", stage1)
    both = trice.rlef(
        stage1, without_labels(others), "math", labels=labels, max_new_tokens=40, seed=options.seed,
        output=options.output / options.name, **chosen, **TRAINING,
    )  # fmt: skip
    finished(options.name, both)


if __name__ == "__main__":
    main()
