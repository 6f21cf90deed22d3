"""The report's section on the rounds of stage 2: how many questions were solved with how many responses, how the policy
answered by round, and examples of what it learned. It is empty for a run without rounds.
"""

from __future__ import annotations

from collections.abc import Sequence

from trice.report import curves, figures
from trice.report.cases import question_text
from trice.report.elements import MISSING, Cell, Rows, Section, Table, percent, shorten
from trice.report.results import Results
from trice.report.run_reader import BOTH, ROUND_SEPARATOR, Learned, Round, Run, without_seed
from trice.types import Outcome

EXAMPLES = 5


def rounds(run: Run, results: Results) -> Section:
    section = Section("Stage 2 in rounds", figures=figures.draw([curves.rounds], run, results))
    if run.rounds:
        section.text += [_sentence(name, found) for name, found in _last_stages(run).items()]
        section.tables += [_policies(run), _passes(run), *_examples(run.learned)]
    return section


def _last_stages(run: Run) -> dict[str, list[Round]]:
    """The rounds of both stages, with the first seed; without these, of stage 2 alone."""
    both = {name: found for name, found in run.rounds.items() if name.rpartition("/")[2] == BOTH}
    return both or {name: found for name, found in run.rounds.items() if without_seed(name) == name}


def _sentence(name: str, found: Sequence[Round]) -> str:
    last, first = found[-1], found[0]
    drawn = sum(each.responses for each in found)
    share = percent(last.solved / (last.questions or 1))
    right = f"{percent(first.right)}% were right"
    if len(found) > 1:
        right += f" in round 1 and {percent(last.right)}% in round {len(found)}"
    return (
        f"In {len(found)} round{'s' if len(found) > 1 else ''} of stage 2, the policy '{shorten(name, 60)}' gave "
        f"{drawn:,} responses to {last.questions:,} questions and found a response to learn from for "
        f"{last.solved:,} ({share}%) of them; of its first responses to each question, {right}."
    )


def _policies(run: Run) -> Table:
    rows: Rows = [
        [
            label,
            f"{each.questions:,}",
            Cell(f"{each.solved:,}", f"{percent(each.solved / (each.questions or 1))}%"),
            f"{each.new:,}",
            f"{each.responses:,}",
            *(percent(share) for share in (each.right, each.called, each.malformed)),
            MISSING if each.call_gain is None else f"{each.call_gain:+.2f}".replace("-", "−"),
            Cell(f"{each.targets.get(Outcome.CALLED, 0):,}", f"of {sum(each.targets.values()):,}"),
        ]
        for label, each in _labeled(run)
    ]
    firsts = " or ".join(sorted({f"{each.samples}" for _, each in _labeled(run)}))
    note = (
        "Solved: a well-formed response with a reward above 0 is found in this round or an earlier one, and the best "
        f"one is the target. Right, called and malformed: percent of the first {firsts} responses to each question, by "
        "the policy before the round trains it. A call gains: the mean reward with a call minus that without, over the "
        "questions answered both ways; below 0, calls cost more than they bring. Target calls: the targets with a call."
    )
    header = [
        "round", "questions", "solved", "new", "responses", "right, %", "called, %", "malformed, %",
        "a call gains", "target calls",
    ]  # fmt: skip
    return Table(header, rows, note=note, breaks=_breaks(run))


def _passes(run: Run) -> Table:
    """A column for each pass of sampling."""
    names = {
        each.number: f"pass {each.number}" + ("" if each.tool_choice == "auto" else f", {each.tool_choice}")
        for _, found in _labeled(run)
        for each in found.passes
    }
    rows: Rows = []
    for label, found in _labeled(run):
        cells = {
            each.number: Cell(f"{each.solved:,} of {each.questions:,}", f"{each.samples} each")
            for each in found.passes
        }
        rows.append([label, *(cells.get(number, Cell(MISSING)) for number in sorted(names))])
    note = (
        "The questions that are asked in each pass, how many of them have a target after it, and the number of "
        "responses to each. Questions without a target are asked again. None and required are tool choices."
    )
    header = ["solved by pass", *(names[number] for number in sorted(names))]
    return Table(header, rows, note=note, breaks=_breaks(run))


def _examples(learned: Sequence[Learned]) -> list[Table]:
    """The questions that needed the most responses, with the response that became the target."""
    rows: Rows = []
    for each in sorted(learned, key=lambda each: -each.responses)[:EXAMPLES]:
        target, answer = each.question.target, each.question.answer
        if target is None:
            continue
        gold = answer if isinstance(answer, list) else [answer or MISSING]
        execution = target.execution.output if target.execution else None
        rows.append(
            [
                str(each.round),
                question_text(each.question),
                shorten(" or ".join(gold), 80),
                Cell(shorten(target.response), shorten(execution or "", 120)),
                f"{target.count or 1} of {each.responses:,}",
            ]
        )
    header = ["round", "learned after many responses", "gold", "target (its result)", "responses like it"]
    return [Table(header, rows, prose=True)] if rows else []


def _labeled(run: Run) -> list[tuple[str, Round]]:
    """Every round with its label, such as `both, round 1`."""
    return [
        (f"{shorten(name, 40)}{ROUND_SEPARATOR}{number}", each)
        for name, found in run.rounds.items()
        for number, each in enumerate(found, start=1)
    ]


def _breaks(run: Run) -> list[int]:
    """The first rows of all variants but the first."""
    places, place = [], 0
    for found in run.rounds.values():
        places.append(place)
        place += len(found)
    return places[1:]
