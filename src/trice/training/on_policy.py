"""One on-policy round of stage 2: the policy answers questions, and what it can learn from its responses becomes
candidates with rewards.

Questions need answers and no labels. Every question gets a few samples. Those without a target get twice as many in
each further pass, up to a maximum for one question and a budget for the round; with `arms`, some samples are drawn with
tool choice `none` and as many with `required`, so that the value of a call is known for each question and policy.

`trice.training.targets` chooses what a question teaches. Unless a policy gradient trains, a solved question keeps its
target in later rounds. This module trains nothing: `trice.training.rlef` trains on the file `ranked.json`.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from trice.errors import InputError
from trice.formats.prompt import CHAT
from trice.models.engine import ToolChoice
from trice.progress import notice
from trice.rewards import RewardFunction, execution
from trice.stages.chat_responses import target_messages
from trice.stages.collect import GOLD
from trice.stages.generate import generate, with_instruction
from trice.stages.grading import SecondTurnModel, grade
from trice.stages.model_spec import ModelSpec, open_engine
from trice.stages.score import without_guess
from trice.storage.files import read_object, read_rows, refuse_repeated, write_rows, write_text
from trice.storage.inputs import to_json
from trice.tasks import Tasks, check_questions
from trice.tools.executor import remove_sidecars
from trice.training.settings import OnPolicy, Rounds
from trice.training.targets import POLICY, Samples, is_sampled
from trice.training_data import Candidate, Candidates, LabeledQuestion
from trice.types import Outcome, Question, Response

RANKED_FILE, SUMMARY_FILE = "ranked.json", "round.json"
Key = tuple[str, str]


class Draw(NamedTuple):
    """One pass of sampling: how many responses each question gets, and with which tool choice."""

    tool_choice: ToolChoice
    samples: int


def sample_round(
    data: Sequence[Path],
    folder: Path,
    tasks: Tasks,
    spec: ModelSpec,
    settings: OnPolicy,
    *,
    reward: RewardFunction | None = None,
    earlier: Path | None = None,
    labels: Path | None = None,
    seed: int = 0,
    retry: bool = False,
) -> dict[str, Any]:
    """Sample responses to the questions of the files `data`, and write `ranked.json` and `round.json` to `folder`.

    `ranked.json` has the target of each solved question, for a policy gradient all responses of this round that the
    policy decided on, and with `utility` also the other questions for which both decisions were sampled.

    Args:
        data: Files of questions with answers, or whatever else their task judges by.
        folder: The folder of the round. Its responses are stored in `samples-1.json` and so on.
        tasks: What the questions belong to.
        spec: The policy; its sampling gives the length limit.
        settings: The numbers of samples, their temperature, the cost of a call, and the objective.
        reward: What a response is worth; by default `execution` with the cost of the settings.
        earlier: The ranked file of the round before, whose solved questions are kept unless a policy gradient trains.
        labels: The examples of stage 1, a share of which (`settings.replay`) is trained on again.
        seed: The seed of this round's samples, and of the choice of questions if the budget does not suffice for all.
        retry: Whether questions without a response are asked again.

    Returns:
        The summary that `round.json` holds.

    Raises:
        InputError: If the questions do not fit the task, or none has a response to learn from.
    """
    questions = [with_instruction(row, tasks.of(row)) for path in data for row in read_rows(path, Question)]
    refuse_repeated(questions)
    check_questions(tasks, questions)
    reward = reward or execution(settings.cost)
    samples = {_key(question): Samples(tasks, question, reward) for question in questions}
    known = {} if settings.policy_gradient or not earlier else _solved_before(earlier, samples)
    before = read_object(earlier.with_name(SUMMARY_FILE)) if earlier else None
    spec = replace(spec, opened=cache(partial(open_engine, spec)))  # once for all passes

    passes: list[dict[str, Any]] = []
    first: list[Response] = []
    both_ways: list[Question] = []  # those that the budget allows to be asked with each tool choice
    for number, draw in enumerate(_draws(settings), start=1):
        pass_seed = seed * 1000 + number
        asked = [
            each.question for key, each in samples.items() if _is_asked(draw, number, each, key in known)
        ]
        if draw.tool_choice == "required":
            asked = both_ways
        elif settings.budget is not None:
            spent = sum(each["samples"] * each["questions"] for each in passes)
            of_a_question = draw.samples * (2 if draw.tool_choice == "none" else 1)
            asked = _chosen(asked, (settings.budget - spent) // of_a_question, pass_seed)
        if draw.tool_choice == "none":
            both_ways = asked
        if not asked:
            continue
        drawn = _sample(asked, folder, number, tasks, spec, _policy(spec, draw, settings, pass_seed), retry)
        first = first or drawn
        for row in drawn:
            samples[_key(row)].add(row, draw.tool_choice)
        solved = sum(samples[_key(question)].choose() is not None for question in asked)
        passes.append({"number": number} | draw._asdict() | {"questions": len(asked), "solved": solved})

    solutions = _present(each.solution(known.get(key)) for key, each in samples.items())
    rows = list(solutions)
    if settings.policy_gradient:
        rows = _present(each.group() for each in samples.values())
    if not rows:
        raise InputError(f"{', '.join(map(str, data))}: {_nothing_to_learn(settings)}")
    summary = _summary(samples, first, solutions, before, passes)
    notice_collapse(summary, before)
    if settings.utility:
        trained = set(map(_key, rows))
        rows += _present(each.decision() for key, each in samples.items() if key not in trained)
    if labels and settings.replay:
        examples = read_rows(labels, LabeledQuestion, repeated=True)
        examples = random.Random(seed).sample(examples, round(settings.replay * len(examples)))
        rows += _replayed(examples, tasks, solutions, chat=spec.prompt_template.format == CHAT)
    write_rows(folder / RANKED_FILE, rows)
    write_text(folder / SUMMARY_FILE, json.dumps(summary, indent=2) + "\n")
    return summary


def describe_round(summary: Mapping[str, Any]) -> str:
    """A round in one line."""
    gain = summary["call_gain"]
    return (
        f"{summary['solved']} of {summary['questions']} questions solved ({summary['new']} of them new) with "
        f"{summary['responses']} responses; of the first {summary['samples']} of each, {summary['right']:.0%} are "
        f"right and {summary['called']:.0%} call"
    ) + ("" if gain is None else f"; a call changes the mean reward by {gain:+.2f}")


def notice_collapse(summary: Mapping[str, Any], before: Mapping[str, Any] | None) -> None:
    """Show a notice if the policy has collapsed: to one response, to malformed ones, or since the round `before` to
    calling always or never."""
    if summary["samples"] > 1 and summary["distinct"] < 1.05:
        notice("the policy gives nearly the same response in all samples; a higher temperature explores more")
    if summary["malformed"] > 0.5:
        notice(
            f"{summary['malformed']:.0%} of the responses are malformed; a lower learning rate does less harm"
        )
    if before and 0.02 < before["called"] < 0.98 and not 0.02 < summary["called"] < 0.98:
        notice(
            f"the policy's share of calls went from {before['called']:.0%} to {summary['called']:.0%}; change `cost` "
            "until a call changes the mean reward by more than 0"
        )


def _key(row: Question | Candidates) -> Key:
    return row.dataset, row.id


def _solved_before(earlier: Path, asked: Container[Key]) -> dict[Key, Candidates]:
    """The rows of the round before with a target that the policy wrote, of the questions that are asked now."""
    rows = filter(is_sampled, read_rows(earlier, Candidates))
    return {_key(row): row for row in rows if _key(row) in asked}


def _draws(settings: Rounds) -> Iterator[Draw]:
    """The passes of a round: the first samples of every question, its arms, and as often as needed as many more for
    those that are not solved."""
    yield Draw("auto", settings.samples)
    if settings.arms:
        yield from (Draw("none", settings.arms), Draw("required", settings.arms))
    drawn = settings.samples
    while drawn < settings.max_samples:
        more = min(drawn, settings.max_samples - drawn)
        yield Draw("auto", more)
        drawn += more


def _is_asked(draw: Draw, number: int, question: Samples, is_known: bool) -> bool:
    """Whether a pass asks a question: the first asks all, those with a tool choice ask the questions that have two
    arms, and the others ask those without a target of this round or an earlier one."""
    if draw.tool_choice != "auto":
        return question.has_two_arms
    return number == 1 or not (is_known or question.target)


def _chosen(questions: list[Question], count: int, seed: int) -> list[Question]:
    """All questions, or if `count` is less as many of them as the seed chooses, in their order."""
    if count >= len(questions):
        return questions
    return [questions[place] for place in sorted(random.Random(seed).sample(range(len(questions)), count))]


def _policy(spec: ModelSpec, draw: Draw, settings: Rounds, seed: int) -> ModelSpec:
    """The policy with the sampling and the tool choice of a pass."""
    sampling = replace(
        spec.sampling, samples=draw.samples, temperature=settings.temperature, top_k=settings.top_k, seed=seed
    )
    return replace(spec, sampling=sampling, tool_choice=draw.tool_choice)


def _sample(
    questions: Sequence[Question],
    folder: Path,
    number: int,
    tasks: Tasks,
    reader: ModelSpec,
    policy: ModelSpec,
    retry: bool,
) -> list[Response]:
    """The executed and judged responses of one pass. `reader` reads tool outputs greedily, as it does for a user."""
    asked, output, results = (
        folder / f"{name}-{number}.json" for name in ("questions", "samples", "results")
    )
    write_rows(asked, questions)
    rows = generate(asked, output, tasks, policy, origin=POLICY, retry=retry)
    graded = grade(tasks, rows, SecondTurnModel(tasks, reader, results), output=results, earlier=[output])
    write_rows(results, graded)
    remove_sidecars(results, "calls")  # they are next to the samples, and what was read is used again
    return [without_guess(tasks, row) for row in graded]


def _present(rows: Iterable[Candidates | None]) -> list[Candidates]:
    return [row for row in rows if row is not None]


def _nothing_to_learn(settings: OnPolicy) -> str:
    if settings.policy_gradient:
        return (
            f"objective '{settings.objective}' needs a question whose responses have different rewards, and there is "
            "none; draw more samples, or give questions that the policy answers correctly now and then"
        )
    return (
        f"no question has a response to learn from among {settings.max_samples}: one with a reward above 0 that is "
        "well formed and, if it calls no tool, not right by luck; train stage 1 on more labels, draw more samples, or "
        "give easier questions"
    )


def _replayed(
    examples: Sequence[LabeledQuestion], tasks: Tasks, solved: Sequence[Candidates], *, chat: bool
) -> list[Candidates]:
    """Examples of stage 1, except those of solved questions, with one candidate each. Questions are compared by their
    text, because those of two files may have the same ids."""
    found, known = [], {_text(row) for row in solved}
    for row in examples:
        if row.turn is None and _text(row) in known:
            continue
        tools = tasks.of_row(row.task, row.instruction, row.where).tools
        completion = target_messages(row, tools) if chat else None
        gold = Candidate(response=row.output, reward=1.0, target=True, origin=GOLD, completion=completion)
        fields = row.model_dump(include=set(Candidates.model_fields) - {"candidates"})
        found.append(Candidates.model_validate(fields | {"candidates": [gold]}))
    return found


def _text(row: LabeledQuestion | Candidates) -> tuple[str, str]:
    return row.input, to_json(row.messages)


def _summary(
    samples: Mapping[Key, Samples],
    first: Sequence[Response],
    solved: Sequence[Candidates],
    before: Mapping[str, Any] | None,
    passes: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The numbers of a round, after that of the round `before`. Shares are over the responses of the first pass."""
    count, outcomes = max(1, len(first)), Counter(row.outcome for row in first)
    distinct = len({(*_key(row), row.response) for row in first})
    targets = [row.target for row in solved if row.target]
    called = sum(each.outcome is Outcome.CALLED for each in targets)
    known = [tuple(key) for key in before.get("solved_keys", [])] if before else []
    new = sorted({_key(row) for row in solved}.difference(known))
    values = (each.values() for each in samples.values())
    gains = [call - answer for call, answer in values if call is not None and answer is not None]
    return {
        "questions": len(samples),
        "samples": passes[0]["samples"],
        "responses": sum(len(each.rows) for each in samples.values()),
        "passes": list(passes),
        "solved": len(solved),
        "solved_keys": [*known, *new],  # in this round or before
        "new": len(new),
        "targets": {"called": called, "answered": len(targets) - called},
        "right": sum(bool(row.correct) for row in first) / count,
        "called": outcomes[Outcome.CALLED] / count,
        "call_gain": fmean(gains) if gains else None,  # of the mean reward, over questions answered both ways
        "malformed": outcomes[Outcome.MALFORMED] / count,
        "distinct": distinct / max(1, len({_key(row) for row in first})),  # of a question
    }
