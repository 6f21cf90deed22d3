"""When2Call: does a model call, ask, refuse or answer where it should? By the likelihood of given responses.

TRICE_DATA names the folder that holds `when2call`. The measures are printed by log-probability for each character,
which is the benchmark's `Acc-Norm`, and by the whole log-probability. The release's script for the hallucination rate
reads the prediction that the lm-evaluation-harness kept for macro F1. The public harness has no such metric, and for F1
it keeps the prediction by the whole log-probability.

    python benchmarks/when2call.py smollm2-135m-instruct --adapter runs/chat/stage-1 --limit 60

Published figures of small models on all 3,652 questions (README of the repository NVIDIA/When2Call on GitHub), each
with a prompt of its own family. Tool hallucination is the share of calls if there is no tool. Those prompts then still
ask for calls in their form; most chat templates write nothing about tools, which makes our share lower:

    model                    macro F1   Acc-Norm   tool hallucination
    Llama 3.2 1B Instruct        21.7       45.1                   43
    Llama 3.2 3B Instruct        17.9       46.5                   52
    Qwen 2.5 0.5B Instruct       32.0       53.5                   20
    Qwen 2.5 1.5B Instruct       29.9       52.6                   23
    xLAM 1B FC-R                 25.6       45.7                   40
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

from trice.datasets import load as load_data
from trice.datasets.when2call import CHOICES
from trice.metrics import Share
from trice.models.local import load, quiet
from trice.progress import aligned
from trice.stages.choices import choose, measure_choices


def percent(share: Share) -> str:
    if share.value is None or share.low is None or share.high is None:
        return "–"
    return f"{100 * share.value:.1f} ({100 * share.low:.0f} to {100 * share.high:.0f}) of {share.total}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--limit", type=int, help="questions, drawn with the seed; default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    quiet()
    rows = load_data("When2Call").test
    if options.limit is not None:
        rows = random.Random(options.seed).sample(rows, min(options.limit, len(rows)))
    start = time.perf_counter()
    choices = choose(load(options.model, options.adapter, dtype=options.dtype), rows)
    seconds = time.perf_counter() - start
    table = [["likelihood", "accuracy, %", "macro F1, %", "tool hallucination, %"]]
    for name, normalized in (("for each character", True), ("as a whole", False)):
        found = measure_choices(choices, normalized=normalized)
        table.append(
            [name, percent(found.accuracy), f"{100 * found.macro_f1:.1f}", percent(found.tool_hallucination)]
        )
    print("\n".join(aligned(table)))
    found, rights = measure_choices(choices), sorted({each.right for each in choices})
    chosen = [[right, *(str(found.counts.get((right, name), 0)) for name in CHOICES)] for right in rights]
    print("\n" + "\n".join(aligned([["right \\ chosen, for each character", *CHOICES], *chosen])))
    print(f"\n{len(choices)} questions in {seconds:.0f} s")


if __name__ == "__main__":
    main()
