"""Phase 5: labels against answers, stage 1 and two rounds of RLEF on ASDiv and SVAMP, one part for each seed.

It is `benchmarks/labels_or_answers.py` with SmolLM2-135M-Instruct. TRICE_DATA names the folder of the official files;
without it, without weights, and with a tiny random model, which solves nothing, this phase is skipped.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from phase_loop import weights
from shapes import Machine, Skipped

SEEDS = (0, 1, 2)


def parts(machine: Machine) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        yield "weights", lambda: {} if machine.tiny else weights(machine.carried, folder)
        for labels in (300, 100):
            for seed in SEEDS:
                name = f"{labels} labels, seed {seed}"
                yield name, lambda labels=labels, seed=seed: rounds(machine, folder, labels, seed)  # type: ignore[misc]


def rounds(machine: Machine, folder: Path, labels: int, seed: int) -> dict[str, Any]:
    if "TRICE_DATA" not in os.environ:
        raise Skipped("TRICE_DATA is not set")
    if not (folder / "model" / "config.json").is_file():
        raise Skipped("there are no weights")
    import labels_or_answers
    import trice

    model = trice.load(folder / "model", device=machine.device.type, dtype="bfloat16", batch_size=512)
    options = labels_or_answers.Options(labels=labels, seed=seed)
    found = labels_or_answers.compare(model, folder / f"{labels}-{seed}", options)
    stage1, both = ({k: v for k, v in each.items() if k != "right"} for each in found)
    return {"stage-1": stage1, "both": both}
