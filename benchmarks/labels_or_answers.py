"""Labels against answers: stage 1 on a few labeled questions, and RLEF on the answers of the others.

The questions are those of ASDiv and SVAMP (1,752 to train on, 466 for testing; TRICE_DATA names the folder of the
official files). The first `--labels` of them, in an order that the seed decides, have expressions; of the others only
the answers are used. Stage 1 trains on the labels, RLEF on the answers; if all questions have labels, RLEF asks these
again. Both models answer the test questions and
MultiArith, on which nothing is trained. Killed and started again, the benchmark resumes. Each evaluation is one line of
`results.jsonl`.

    python benchmarks/labels_or_answers.py smollm2-135m-instruct --labels 300 --seed 0 --output runs/labels-300
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import trice
from trice.datasets import load
from trice.settings import override
from trice.types import Question, Response

ROUNDS: dict[str, Any] = {"rounds": 2, "learning_rate": 3e-4}
TRAINING: dict[str, Any] = {
    "batch_size": 8,
    "token_budget": 2048,
    "lora": {"r": 16, "lora_alpha": 32, "lora_dropout": 0, "target_modules": "all-linear"},
}


@dataclass(frozen=True)
class Options:
    """How many labels, at most how many answers and questions of MultiArith, and how stage 1 is trained. `name` is that
    of a variant of RLEF on the same stage 1."""

    labels: int = 300
    answers: int = 1752
    multiarith: int = 600
    seed: int = 0
    epochs: float = 2.0
    name: str = "both"


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


def measured(rows: list[Response]) -> dict[str, Any]:
    """The accuracy on each data set in percent, and the share of calls."""
    by_set: dict[str, list[Response]] = {}
    for row in rows:
        by_set.setdefault(row.dataset, []).append(row)
    accuracy = {
        name: round(100 * sum(bool(row.correct) for row in part) / len(part), 1)
        for name, part in by_set.items()
    }
    return {"accuracy": accuracy, "calls": round(sum(row.outcome == "called" for row in rows) / len(rows), 3)}


def compare(model: trice.Model, output: Path, options: Options, **settings: Any) -> Iterator[dict[str, Any]]:
    """Train and evaluate stage 1, and then RLEF with these settings. Gives a record of each evaluation."""
    train, test = questions(options.seed)
    _, unseen, _ = load("MultiArith", train=0, test=options.multiarith)
    labeled, others = train[: options.labels], train[options.labels :][: options.answers]
    labels = trice.label(labeled, "math", teacher="annotations", output=output / "labels")

    def evaluated(name: str, policy: trice.Model) -> dict[str, Any]:
        start = time.perf_counter()
        found = trice.evaluate(
            policy, [*test, *unseen], "math", max_new_tokens=40, output=output / f"evaluated-{name}"
        )
        policy.unload()
        (rows,) = found.responses.values()
        record = {"model": name, "labels": options.labels, "seed": options.seed} | measured(rows)
        right = [row.id for row in rows if row.correct]
        return record | {"seconds": round(time.perf_counter() - start), "right": right}

    stage1 = trice.clone(
        model, labels, "math", output=output / "stage-1", num_train_epochs=options.epochs, learning_rate=5e-4,
        seed=options.seed, **TRAINING,
    )  # fmt: skip
    yield evaluated("stage-1", stage1)
    both = trice.rlef(
        stage1, without_labels(others or labeled), "math", labels=labels, max_new_tokens=40, seed=options.seed,
        output=output / options.name, **(ROUNDS | settings), **TRAINING,
    )  # fmt: skip
    yield evaluated(options.name, both)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--output", type=Path, required=True)
    for each in fields(Options):
        parser.add_argument(f"--{each.name}", type=type(each.default), default=each.default)
    parser.add_argument("settings", nargs="*", help="key=value for trice.rlef, such as rounds=2 or replay=0")
    given = vars(parser.parse_intermixed_args())
    model, output, texts = trice.load(given.pop("model")), given.pop("output"), given.pop("settings")
    settings: dict[str, Any] = {}
    for text in texts:
        override(settings, text)
    for line in compare(model, output, Options(**given), **settings):
        print({key: value for key, value in line.items() if key != "right"}, flush=True)
        with (output / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
