"""GSM8K: 7,473 + 1,319 problems of several steps with worked solutions, in two JSONL files.

A solution marks its steps `<<48/2=24>>` and ends with `#### answer`. The steps are composed into one
expression; where a line marks none, equations written out in it (`$12 + $6 = $18`) are taken as steps if
they hold. A question is never changed, not even its blanks.

Solutions by unknowns (`x = 20`) are not covered: such a question has an expression that does not give the
answer, or none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from trice.datasets.benchmark import Benchmark, Dropped, HubRows, Parts, Record, hub_rows, read_jsonl
from trice.datasets.expressions import MAX_LENGTH, NUMBER, SolutionStep, equal, number, tidy
from trice.types import Question

NAME = "GSM8K"
FILES = {"train": "gsm8k/train.jsonl", "test": "gsm8k/test.jsonl"}
MARKED = re.compile(r"<<([^<>=]+)=(-?[0-9.]+)>>")
WRITTEN = re.compile(r"([0-9.(][-+*/(). 0-9]*[-+*/][-+*/(). 0-9]*)= *([0-9]+(?:\.[0-9]+)?)")


def read(folder: Path) -> Parts:
    """The two official files under `folder`. Raises InputError for the line that does not fit."""
    return BENCHMARK.gather(folder, {part: [file] for part, file in FILES.items()}, read_jsonl)


def from_hub(splits: HubRows) -> Parts:
    """The hub's rows, which are those of the official files."""
    return {part: hub_rows(splits, part, part) for part in FILES}


def written(line: str) -> list[SolutionStep]:
    """The equations written out in a line of a solution, units left out, as far as they hold."""
    line = re.sub(r"(?<=[0-9]),(?=[0-9]{3})", "", line)
    line = re.sub(r"(?<=[0-9) ])[xX×](?=[ $(0-9])", "*", line).replace("−", "-").replace("÷", "/")
    line = re.sub(r"[A-Za-z]+(?:[/-][A-Za-z]+)*|[$%]", " ", line)
    return [SolutionStep(*found) for found in WRITTEN.findall(line) if equal(*found)]


def steps(solution: str) -> list[SolutionStep]:
    """The steps of a worked solution in order: each line's marked ones, else those written out in it."""
    found: list[SolutionStep] = []
    for line in solution.splitlines():
        found += [SolutionStep(*pair) for pair in MARKED.findall(line)] or written(line)
    return found


def compose(worked: Sequence[SolutionStep]) -> list[str | None]:
    """Each step with its operands traced back to the numbers of the problem.

    An operand that equals an earlier step's result becomes that step's own composed expression: the most
    recent such step, and each step for one operand only. What grew beyond MAX_LENGTH stays a number.
    """
    composed: list[str | None] = []
    for step in worked:
        earlier = [(result, inner) for (_, result), inner in zip(worked, composed, strict=False) if inner]

        def traced(match: re.Match[str], earlier: list[tuple[str, str]] = earlier) -> str:
            for index in range(len(earlier) - 1, -1, -1):
                result, inner = earlier[index]
                if float(result) == float(match[0]) and len(inner) <= MAX_LENGTH:
                    del earlier[index]
                    return f"({inner})"
            return match[0]

        composed.append(tidy(NUMBER.sub(traced, step.expression)))
    return composed


def expression(solution: str, answer: str) -> str | None:
    """The last composed step that gives the answer; where none does, the last one there is."""
    composed = [each for each in reversed(compose(steps(solution))) if each]
    return next((each for each in composed if equal(each, answer)), composed[0] if composed else None)


def question(record: Record) -> Question | Dropped:
    """A record as a question; dropped where no number stands after `####`."""
    text = record.text("question")
    solution, _, answer = record.text("answer").rpartition("####")
    gold = number(answer)
    if gold is None or not solution:
        return record.dropped(NAME, "no number after '####' in the answer")
    return record.question(NAME, text, gold, expression=expression(solution, gold))


BENCHMARK = Benchmark(
    name=NAME,
    task="math",
    licence="MIT",
    files=tuple(FILES.values()),
    home="openai/grade-school-math on GitHub",
    hub={"path": "openai/gsm8k", "name": "main"},
    train=6255,
    test=1319,
    read=read,
    from_hub=from_hub,
    question=question,
)
