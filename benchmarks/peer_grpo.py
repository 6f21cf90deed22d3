"""A peer on the same work: TRL's GRPOTrainer and `trice.rlef` in rounds, from the same stage-1 adapter.

The questions are those of ASDiv and SVAMP, the tool is the calculator, and the format is `paper`. Stage 1 is trained
once, on `--labels` questions with expressions. Then each side trains in a process of its own on the answers of
`--questions` others, with `--samples` responses to each question in each of `--rounds` rounds (epochs, for TRL) and the
same seed. Its wall time, processor time and peak memory are those of the process, with imports and loading. All models
answer the same test questions with `trice.evaluate`. Lines are those of the two functions below, without blank ones.
TRICE_DATA names the folder of the official files.

    OMP_NUM_THREADS=1 python benchmarks/peer_grpo.py smollm2-135m-instruct --output runs/peer
    OMP_NUM_THREADS=1 python benchmarks/peer_grpo.py smollm2-135m-instruct --output runs/peer-large \\
        --labels 300 --questions 600 --test 466 --rounds 2 --max-samples 32 trl.learning_rate=1e-4

TRL's `tools=` needs a chat template with tools, which SmolLM2 does not have: GRPOTrainer refuses it. A response of the
format `paper` has one call at its end, so a reward function can execute it, which is what TRL is given here; it uses
trice's own parser, calculator and judge. TRL's settings: a LoRA learning rate of 1e-5 (its page on PEFT), no KL term
(`beta`), the loss `dapo` and advantages scaled by group (its defaults), truncated responses masked (its advice for
stability), 4 questions in a step, so that few questions give many steps. It computes in float32 without gradient
checkpointing, which is faster on a CPU. `trl.NAME=VALUE` and `trice.NAME=VALUE` change the settings of a side; with
another `--name`, only what is not there yet is trained.
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
from pathlib import Path
from typing import Any

import trice
from trice.datasets import load
from trice.progress import aligned
from trice.settings import override
from trice.storage.files import read_rows, write_rows
from trice.types import LabeledQuestion, Question

LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0, "target_modules": "all-linear"}


def train_with_trice(job: dict[str, Any], settings: dict[str, Any]) -> None:
    stage1 = trice.load(job["model"], job["stage1"])
    trice.rlef(
        stage1, job["questions"], "math", rounds=job["rounds"], samples=job["samples"], seed=job["seed"],
        max_samples=job["max_samples"], labels=job["labels"], max_new_tokens=40, output=job["output"], lora=LORA,
        **settings,
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


SIDES = {"trice": train_with_trice, "trl": train_with_trl}


def number(value: Any) -> Any:
    """A text such as `1e-4`, which is none in YAML, as a number; other values as they are."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def lines(side: str) -> int:
    return sum(bool(line.strip()) for line in inspect.getsource(SIDES[side]).splitlines())


def questions(options: argparse.Namespace) -> tuple[list[Question], list[Question], list[Question]]:
    """Questions with expressions, other ones of which only the answers are used, and test questions."""
    parts = [load("ASDiv", train=952, test=266), load("SVAMP", train=800, test=200)]
    train, test = ([row for part in parts for row in getattr(part, name)] for name in ("train", "test"))
    for rows in (train, test):
        random.Random(options.seed).shuffle(rows)
    names = ("id", "dataset", "input", "answer")
    asked = train[options.labels :][: options.questions]
    answers = [Question.model_validate({name: getattr(row, name) for name in names}) for row in asked]
    return train[: options.labels], answers, test[: options.test]


def prepare(options: argparse.Namespace) -> tuple[dict[str, Any], list[Question]]:
    """Train stage 1 and write the questions. Returns what a side needs, and the test questions."""
    labeled, answers, test = questions(options)
    labels = trice.label(labeled, "math", teacher="annotations", output=options.output / "labels")
    stage1 = trice.clone(
        trice.load(options.model), labels, "math", output=options.output / "stage-1", num_train_epochs=2,
        batch_size=8, learning_rate=5e-4, seed=options.seed, lora=LORA,
    )  # fmt: skip
    job: dict[str, Any] = {name: getattr(options, name) for name in ("model", "rounds", "samples", "seed")}
    job["max_samples"] = options.max_samples or options.samples
    job["stage1"] = str(stage1.adapter)
    for name, rows in (("questions", answers), ("labels", labels)):
        write_rows(options.output / f"{name}.json", rows)
        job[name] = str(options.output / f"{name}.json")
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


def main() -> None:
    if sys.argv[1:2] == ["--side"]:
        job, given = json.load(sys.stdin)
        if sys.argv[2] == "trice":
            job["labels"] = read_rows(Path(job["labels"]), LabeledQuestion)
        SIDES[sys.argv[2]](job, given)
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--name", default="default", help="of these settings; stage 1 is shared")
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--max-samples", type=int, help="trice's, for unsolved questions; default --samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("settings", nargs="*", help="trl.NAME=VALUE or trice.NAME=VALUE")
    options = parser.parse_intermixed_args()
    settings: dict[str, Any] = {"trl": {}, "trice": {}}
    for text in options.settings:
        override(settings, text)
    settings["trl"] = {name: number(value) for name, value in settings["trl"].items()}
    job, test = prepare(options)
    models, taken = {"stage 1": trice.load(options.model, job["stage1"])}, {}
    for side in SIDES:
        output = options.output / f"{side}-{options.name}"
        taken[side] = train(side, job, settings[side], output)
        if side == "trl":  # the base model by its name, in place of its folder
            (output / "adapter_config.json").write_bytes(
                Path(job["stage1"], "adapter_config.json").read_bytes()
            )
        models[side] = trice.load(options.model, output, template="plain")
    result = trice.evaluate(models, test, "math", max_new_tokens=40, output=options.output / options.name)
    print(result, "\n")
    table = [["side", "minus stage 1, points", *next(iter(taken.values())), "lines"]]
    for side, took in taken.items():
        found = result.difference(side, "stage 1")
        gain = f"{100 * found.delta:+.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"
        table.append([side, gain, *(f"{value:.0f}" for value in took.values()), str(lines(side))])
    print("\n".join(aligned(table)))


if __name__ == "__main__":
    main()
