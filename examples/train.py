"""Teach a model when to call a tool of yours: `python examples/train.py [MODEL]`. It takes a few minutes."""

import sys

import trice

METRES = {"metres": 1.0, "feet": 0.3048, "miles": 1609.344}


@trice.tool
def convert(value: float, unit: str, to: str) -> float:
    """Convert a length between units."""
    return round(value * METRES[unit] / METRES[to], 2)


def feet(n: int) -> dict:
    gold = str(convert(n, "metres", "feet"))
    return {"question": f"How many feet are {n} metres?", "answer": gold, "expression": f"{n}, metres, feet"}


task = trice.Task("units", "Answer; convert changes units.", tools=[convert], answers="numbers")
model = trice.load(sys.argv[1] if len(sys.argv) > 1 else "gemma-3-270m")
known, unknown = trice.split(model, map(feet, range(3, 15)), task, max_new_tokens=12)
lora = {"target_modules": "all-linear"}
settings = {"num_train_epochs": 4, "batch_size": 4, "learning_rate": 5e-4, "lora": lora}
stage1 = trice.clone(model, known + trice.label(unknown, task), task, **settings)
print(trice.evaluate({"base": model, "stage 1": stage1}, map(feet, range(20, 28)), task))
print(stage1.ask("How many feet are 42 metres?", task))
