"""A peer on the same work: TRL's GRPOTrainer and `trice.rlef` in rounds, from the same stage-1 adapter.

The questions are those of ASDiv and SVAMP, the tool is the calculator, and the format is `paper`. For each seed, stage
1 is trained once, on `--labels` questions with expressions. Then each side trains in a process of its own on the
answers of `--questions` others, with `--samples` responses to each question in each of `--rounds` rounds (epochs, for
TRL). `trice` also trains on the labels of stage 1 again, as is its default; `answers` is trice without them
(`replay=0`), and so has what TRL has; `rounds` is that in 5 rounds, which take about as much processor time as TRL.
The wall time, processor time and peak memory of a side are those of its process, with imports and loading. All models
answer the same test questions with `trice.evaluate`, and differences are paired; several seeds are averaged by
question. Lines are those of the two functions below, without blank ones. TRICE_DATA names the folder of the official
files.

    OMP_NUM_THREADS=1 python benchmarks/peer_grpo.py smollm2-135m-instruct --output runs/peer --seeds 0 1 2
    OMP_NUM_THREADS=1 python benchmarks/peer_grpo.py smollm2-135m-instruct --output runs/peer-large \\
        --labels 300 --questions 600 --test 466 --rounds 2 --max-samples 32 --set trl.learning_rate=1e-4

TRL's `tools=` needs a chat template with tools, which SmolLM2 does not have: GRPOTrainer refuses it. A response of the
format `paper` has one call at its end, so a reward function can execute it, which is what TRL is given here; it uses
trice's own parser, calculator and judge. TRL's settings: a LoRA learning rate of 1e-5 (its page on PEFT), no KL term
(`beta`), the loss `dapo` and advantages scaled by group (its defaults), truncated responses masked (its advice for
stability), 4 questions in a step, so that few questions give many steps. It computes in float32 without gradient
checkpointing, which is faster on a CPU. `--set SIDE.NAME=VALUE` changes a setting of a side; another `--name` trains
the `--sides` again on the same stage 1.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

import trice
from trice.datasets import load
from trice.metrics import difference
from trice.progress import aligned
from trice.settings import override
from trice.storage.files import read_rows, write_rows
from trice.training_data import LabeledQuestion
from trice.types import Question, Response

LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0, "target_modules": "all-linear"}


def train_with_trice(job: dict[str, Any], settings: dict[str, Any]) -> None:
    stage1 = trice.load(job["model"], job["stage1"])
    trice.rlef(
        stage1, job["questions"], "math", samples=job["samples"], seed=job["seed"], max_samples=job["max_samples"],
        labels=job["labels"], max_new_tokens=40, output=job["output"], lora=LORA,
        **{"rounds": job["rounds"]} | settings,
    )  # fmt: skip


def train_with_trl(job: dict[str, Any], settings: dict[str, Any]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from datasets import Dataset
    from trice.models.local import find_model
    from trice.stages.grading import grade
    from trice.tasks import Tasks
    from trice.types import Response

    tasks, folder = Tasks("math"), find_model(job["model"])

    def reward(completions: list[str], answer: list[str], **_: Any) -> list[float]:
        rows = [
            Response(id=str(number), input="-", answer=gold, response=text.strip())
            for number, (text, gold) in enumerate(zip(completions, answer, strict=True))
        ]
        return [bool(row.correct) - 0.1 * (row.outcome != "answered") for row in grade(tasks, rows)]

    rows = [json.loads(line) for line in Path(job["questions"]).read_text().splitlines()]
    prompts = [{"prompt": f"Question: {row['input']}\nAnswer:", "answer": row["answer"]} for row in rows]
    base = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    config = GRPOConfig(**{
        "output_dir": job["output"], "num_train_epochs": job["rounds"], "num_generations": job["samples"],
        "per_device_train_batch_size": 4 * job["samples"], "max_completion_length": 40, "learning_rate": 1e-5,
        "mask_truncated_completions": True, "gradient_checkpointing": False, "bf16": False, "seed": job["seed"],
        "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
    } | settings)  # fmt: skip
    trainer = GRPOTrainer(
        model=PeftModel.from_pretrained(base, job["stage1"], is_trainable=True),
        reward_funcs=reward, args=config, train_dataset=Dataset.from_list(prompts),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )  # fmt: skip
    trainer.train()
    trainer.save_model(job["output"])


SIDES: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], None], dict[str, Any]]] = {
    "trice": (train_with_trice, {}),
    "answers": (train_with_trice, {"replay": 0}),
    "rounds": (train_with_trice, {"replay": 0, "rounds": 5}),
    "trl": (train_with_trl, {}),
}
"""How a side trains, and the settings that make it what it is"""


def number(value: Any) -> Any:
    """A text such as `1e-4`, which is none in YAML, as a number; other values as they are."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def lines(side: str) -> int:
    return sum(bool(line.strip()) for line in inspect.getsource(SIDES[side][0]).splitlines())


def questions(
    options: argparse.Namespace, seed: int
) -> tuple[list[Question], list[Question], list[Question]]:
    """Questions with expressions, other ones of which only the answers are used, and test questions, which are the
    same for each seed."""
    parts = [load("ASDiv", train=952, test=266), load("SVAMP", train=800, test=200)]
    train, test = ([row for part in parts for row in getattr(part, name)] for name in ("train", "test"))
    random.Random(seed).shuffle(train)
    random.Random(0).shuffle(test)
    names = ("id", "dataset", "input", "answer")
    asked = train[options.labels :][: options.questions]
    answers = [Question.model_validate({name: getattr(row, name) for name in names}) for row in asked]
    return train[: options.labels], answers, test[: options.test]


def prepare(options: argparse.Namespace, seed: int, folder: Path) -> tuple[dict[str, Any], list[Question]]:
    """Train stage 1 and write the questions. Returns what a side needs, and the test questions."""
    labeled, answers, test = questions(options, seed)
    labels = trice.label(labeled, "math", teacher="annotations", output=folder / "labels")
    stage1 = trice.clone(
        trice.load(options.model), labels, "math", output=folder / "stage-1", num_train_epochs=2, batch_size=8,
        learning_rate=5e-4, seed=seed, lora=LORA,
    )  # fmt: skip
    stage1.unload()
    job: dict[str, Any] = {name: getattr(options, name) for name in ("model", "rounds", "samples")}
    job |= {
        "seed": seed,
        "max_samples": options.max_samples or options.samples,
        "stage1": str(stage1.adapter),
    }
    for name, rows in (("questions", answers), ("labels", labels)):
        write_rows(folder / f"{name}.json", rows)
        job[name] = str(folder / f"{name}.json")
    return job, test


def train(side: str, job: dict[str, Any], settings: dict[str, Any], output: Path) -> dict[str, float]:
    """Train one side in a process of its own, unless that is done, and return what it took."""
    record = output.with_suffix(".json")
    if not record.exists():
        start = time.perf_counter()
        given = json.dumps([job | {"output": str(output)}, settings])
        process = subprocess.Popen(
            [sys.executable, __file__, "--side", side], stdin=subprocess.PIPE, text=True
        )
        assert process.stdin is not None
        process.stdin.write(given)
        process.stdin.close()
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{side}: failed")
        took = {
            "wall, s": time.perf_counter() - start,
            "processor, s": usage.ru_utime + usage.ru_stime,
            "peak, MB": usage.ru_maxrss / 1024,
        }
        record.write_text(json.dumps(took))
    found: dict[str, float] = json.loads(record.read_text())
    return found


def compare(
    options: argparse.Namespace, seed: int, settings: dict[str, Any]
) -> tuple[dict[str, list[Response]], dict[str, dict[str, float]]]:
    """Train all sides with a seed. Returns the responses of each model, and what each side took."""
    folder = options.output / f"seed-{seed}"
    job, test = prepare(options, seed, folder)
    responses, taken = {"stage 1": evaluated(options, job["stage1"], test, folder)}, {}
    for side in options.sides:
        output = folder / f"{side}-{options.name}"
        taken[side] = train(side, job, settings[side], output)
        if side == "trl":  # the base model by its name, in place of its folder
            (output / "adapter_config.json").write_bytes(
                Path(job["stage1"], "adapter_config.json").read_bytes()
            )
        responses[side] = evaluated(options, output, test, folder)
    return responses, taken


def evaluated(
    options: argparse.Namespace, adapter: str | Path, test: list[Question], folder: Path
) -> list[Response]:
    """A model's graded responses to the test questions."""
    model, output = trice.load(options.model, adapter, template="plain"), folder / "evaluated"
    found = trice.evaluate({Path(adapter).name: model}, test, "math", max_new_tokens=40, output=output)
    model.unload()
    (rows,) = found.responses.values()
    return rows


def table(
    responses: dict[str, list[Response]], taken: dict[str, dict[str, float]], sides: Iterable[str]
) -> str:
    """Accuracy, calls, paired differences and what each side took, as text."""
    first = next(iter(taken.values()))
    cells = [["side", "correct", "calls", "minus stage 1, points", "minus TRL, points", *first, "lines"]]
    for name in ("stage 1", *sides):
        rows = responses[name]
        shares = (sum(map(bool, marks)) / len(rows) for marks in zip(*map(marked, rows), strict=True))
        against = [
            str(difference(rows, responses[other])) if other in responses and other != name else ""
            for other in ("stage 1", "trl")
        ]
        took = [f"{value:.0f}" for value in taken[name].values()] if name in taken else [""] * len(first)
        percent = [f"{100 * share:.1f}" for share in shares]
        cells.append([name, *percent, *against, *took, str(lines(name)) if name in SIDES else ""])
    return "\n".join(aligned(cells))


def marked(row: Response) -> tuple[bool, bool]:
    return bool(row.correct), row.outcome == "called"


def main() -> None:
    if sys.argv[1:2] == ["--side"]:
        job, given = json.load(sys.stdin)
        if sys.argv[2] != "trl":
            job["labels"] = read_rows(Path(job["labels"]), LabeledQuestion)
        side, own = SIDES[sys.argv[2]]
        side(job, own | given)
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--name", default="default", help="of these settings; stage 1 is shared")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=[*SIDES])
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--max-samples", type=int, help="trice's, for unsolved questions; default --samples")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", action="append", default=[], metavar="SIDE.NAME=VALUE")
    options = parser.parse_args()
    settings: dict[str, Any] = {side: {} for side in SIDES}
    for text in options.set:
        override(settings, text)
    settings["trl"] = {name: number(value) for name, value in settings["trl"].items()}
    responses: dict[str, list[Response]] = {}
    every: list[dict[str, dict[str, float]]] = []
    for seed in options.seeds:
        found, taken = compare(options, seed, settings)
        every.append(taken)
        print(f"\nseed {seed}\n{table(found, taken, options.sides)}", flush=True)
        for name, rows in found.items():
            responses[name] = [*responses.get(name, []), *rows]
    mean = {
        side: {what: fmean(taken[side][what] for taken in every) for what in every[0][side]}
        for side in options.sides
    }
    print(f"\nmean of {len(every)} seeds\n{table(responses, mean, options.sides)}")


if __name__ == "__main__":
    main()
