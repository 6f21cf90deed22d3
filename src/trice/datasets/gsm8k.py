"""GSM8K: 7,473 + 1,319 problems of several steps with worked solutions, in two JSONL files.

A solution marks its steps `<<48/2=24>>` and ends with `#### answer`. The steps are composed into one expression. If
a line has no marks, correct equations in its text (`$12 + $6 = $18`) are its steps. The question's text is
unchanged.

Solutions with unknowns (`x = 20`) are not supported: such a question has no expression, or one with a wrong value.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from trice.datasets.benchmark import Benchmark, Dropped, HubRows, Parts, Record, hub_rows
from trice.datasets.expressions import MAX_LENGTH, NUMBER, SolutionStep, equal, number, tidy
from trice.types import Question

NAME = "GSM8K"
FILES = {"train": ["gsm8k/train.jsonl"], "test": ["gsm8k/test.jsonl"]}
MARKED = re.compile(r"<<([^<>=]+)=(-?[0-9.]+)>>")
WRITTEN = re.compile(r"([0-9.(][-+*/(). 0-9]*[-+*/][-+*/(). 0-9]*)= *([0-9]+(?:\.[0-9]+)?)")


def from_hub(splits: HubRows) -> Parts:
    """The hub's rows, which equal those of the official files."""
    return {part: hub_rows(splits, part, part) for part in FILES}


def written(line: str) -> list[SolutionStep]:
    """The correct equations in the text of a solution's line, without units."""
    line = re.sub(r"(?<=[0-9]),(?=[0-9]{3})", "", line)
    line = re.sub(r"(?<=[0-9) ])[xX×](?=[ $(0-9])", "*", line).replace("−", "-").replace("÷", "/")
    line = re.sub(r"[A-Za-z]+(?:[/-][A-Za-z]+)*|[$%]", " ", line)
    return [SolutionStep(*found) for found in WRITTEN.findall(line) if equal(*found)]


def steps(solution: str) -> list[SolutionStep]:
    """The steps of a worked solution: the marked ones of each line, or else the equations in its text."""
    found: list[SolutionStep] = []
    for line in solution.splitlines():
        found += [SolutionStep(*pair) for pair in MARKED.findall(line)] or written(line)
    return found


def compose(worked: Sequence[SolutionStep]) -> list[str | None]:
    """Each step as an expression of the problem's numbers.

    An operand that equals an earlier step's result is replaced by that step's composed expression: the most recent
    such step, and each step for one operand only. Expressions longer than MAX_LENGTH are not inserted.
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
    """The last composed step with the answer as its value, or else the last step, if any."""
    composed = [each for each in reversed(compose(steps(solution))) if each]
    return next((each for each in composed if equal(each, answer)), composed[0] if composed else None)


def question(record: Record) -> Question | Dropped:
    """A record as a question; dropped if no number follows `####`."""
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
    files=FILES,
    home="openai/grade-school-math on GitHub",
    hub={"path": "openai/gsm8k", "name": "main"},
    train=6255,
    test=1319,
    from_hub=from_hub,
    question=question,
)
