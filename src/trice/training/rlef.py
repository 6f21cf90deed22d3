"""Stage 2, reinforcement learning with execution feedback: training on candidates ranked by their rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from trice.datasets.published import read_candidates
from trice.errors import InputError, located_at
from trice.formats.chat import ChatFormat
from trice.formats.prompt import CHAT, Template, check_expressible, load_template
from trice.rewards import RewardFunction
from trice.stages.call_decision import call_openings
from trice.stages.chat_responses import chat_format_of, offered_tools, prompt_messages
from trice.tasks import Tasks, recorded_task, task_asked, tasks_asked
from trice.training.settings import POLICY_GRADIENTS, Rlef
from trice.training.validation import load_validation
from trice.training_data import Candidate, Candidates


def examples(
    data: Path,
    template: Template,
    limit: int | None = None,
    tasks: Tasks | None = None,
    settings: Rlef | None = None,
) -> Callable[[Any], list[Any]]:
    """A function from the tokenizer to the training set. Raises InputError for data that do not fit.

    For a policy gradient, a response that was sampled several times is as many candidates, and in the format `paper`
    one that the length limit ended has no end token. Without ranking (alpha 0) only the best candidate is computed.
    """
    settings = settings or Rlef()
    policy_gradient = settings.objective in POLICY_GRADIENTS
    rows = [row for row in read_candidates(data)[:limit] if row.candidates or settings.utility]
    if not settings.alpha:
        rows = [row.model_copy(update={"candidates": _best(row)}) for row in rows]
    check_expressible(rows, template)
    for row in rows:
        if template.format != CHAT:
            if any(message.tool_calls for each in row.candidates for message in each.completion or ()):
                raise InputError(
                    f"{row.where}: field 'completion': a candidate has native tool calls, which the format paper "
                    "cannot express; choose --format chat"
                )
        elif any(each.completion is None for each in row.candidates):
            raise InputError(
                f"{row.where}: field 'completion' of a candidate is missing; format 'chat' needs candidates that were "
                "generated with it"
            )

    known = cache(lambda: tasks or tasks_asked(rows))

    def tokenized(tokenizer: Any) -> list[Any]:
        from trice.training.tokenization import tokenize_example

        if template.format == CHAT:
            chat = chat_format_of(template, tokenizer)
            made = []
            for row in rows:
                with located_at(row.where or row.id):
                    made.append(_conversations(chat, known(), row))
            return made
        return [
            tokenize_example(
                template,
                tokenizer,
                row.instruction,
                row.input,
                [each.response for each in row.candidates],
                [each.reward for each in row.candidates],
                [each.tokens for each in row.candidates],
                # The length limit ends a response where the policy would not. After a call the end token is trained,
                # though the policy is not asked for it: programs without trice's stop rule need it.
                [not (policy_gradient and each.truncated) for each in row.candidates],
            )
            for row in rows
        ]

    def make(tokenizer: Any) -> list[Any]:
        made = tokenized(tokenizer)
        if policy_gradient:
            made = [_repeated(example, row) for example, row in zip(made, rows, strict=True)]
        if settings.utility:
            openings = _call_openings(template, tokenizer, known())
            made = [_with_utility(*each, openings) for each in zip(made, rows, strict=True)]
            if all(example.utility is None for example in made):
                raise InputError(
                    f"{data}: no row has both 'call_value' and 'answer_value', which 'utility' needs; sample rounds "
                    "with 'arms', or leave out 'utility'"
                )
        return made

    return make


def _best(row: Candidates) -> list[Candidate]:
    """The candidate that L_sft trains on, if there is one: the first of those with the highest reward."""
    return sorted(row.candidates, key=lambda each: -each.reward)[:1]


def _repeated(example: Any, row: Candidates) -> Any:
    """The example with each response as often as it was sampled. Packing computes equal responses once."""
    numbers = [number for number, each in enumerate(row.candidates) for _ in range(each.count or 1)]
    return replace(
        example,
        responses=[example.responses[number] for number in numbers],
        rewards=[example.rewards[number] for number in numbers],
    )


def _call_openings(
    template: Template, tokenizer: Any, tasks: Tasks
) -> Callable[[Candidates], Sequence[Sequence[int]]]:
    """From a question to the beginnings of its calls: the tokens of each tool's name, unless it continues that of
    another tool, or those that open a call in the chat template, which are the same for all questions."""
    from trice.models.call_signals import shortest_openings

    if template.format == CHAT:
        opening = cache(lambda: [chat_format_of(template, tokenizer).call_opening()])
        return lambda row: opening()

    def of_tools(row: Candidates) -> Sequence[Sequence[int]]:
        tools = tasks.of_row(row.task, row.instruction, row.where).tools
        return shortest_openings(call_openings(template, tokenizer, (tool.name for tool in tools)))

    return of_tools


def _with_utility(
    example: Any, row: Candidates, openings: Callable[[Candidates], Sequence[Sequence[int]]]
) -> Any:
    """The example with the worth of both decisions, if both are known, and the beginnings of a call."""
    from trice.training.packing import ResponseTokens

    if row.call_value is None or row.answer_value is None:
        return example
    beginnings = [ResponseTokens(list(ids), [True] * len(ids)) for ids in openings(row)]
    utility = (row.call_value, row.answer_value)
    return replace(example, responses=[*example.responses, *beginnings], utility=utility)


def _conversations(chat: ChatFormat, tasks: Tasks, row: Candidates) -> Any:
    """The candidates of a question as tokenized conversations, in the tokens that were sampled if they were."""
    from trice.training.packing import ResponseTokens, TokenizedExample
    from trice.training.tokenization import tokenize_conversation

    tools = tasks.of_row(row.task, row.instruction, row.where).tools
    asked, offered = prompt_messages(row), offered_tools(row, tools)
    prompt, responses = chat.prompt(asked, offered), []
    for each in row.candidates:
        if each.tokens is not None and each.loss is not None and _written_with(chat, each):
            responses.append(ResponseTokens(each.tokens, each.loss))
        else:
            rendered = tokenize_conversation(chat, [*asked, *(each.completion or ())], offered)
            whole = [*rendered.prompt, *rendered.responses[0].ids]
            loss = [False] * len(rendered.prompt) + rendered.responses[0].loss
            responses.append(ResponseTokens(whole[len(prompt) :], loss[len(prompt) :]))
    return TokenizedExample(prompt, responses, [each.reward for each in row.candidates])


def _written_with(chat: ChatFormat, candidate: Candidate) -> bool:
    """Whether the token ids of a candidate are of this tokenizer, since another model may have written it."""
    ids = candidate.tokens or []
    if not all(token < len(chat.tokenizer) for token in ids):
        return False
    written = [token for token, own in zip(ids, candidate.loss or [], strict=False) if own]
    return chat.text(written) == candidate.response


def rlef(
    data: Path,
    output: Path,
    model: str,
    adapter: Path | None = None,
    *,
    settings: Rlef | None = None,
    template: Template | None = None,
    validation: Path | None = None,
    reward: RewardFunction | None = None,
    tasks: Tasks | None = None,
    max_new_tokens: int = 64,
    seed: int = 0,
    limit: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> Path:
    """Train the stage-1 `adapter` further, or a new one on the base model, and save it in `output`.

    `data` has candidates with rewards. The objective is α·L_rank + sft·L_sft (`trice.training.trainer`). Validation and
    the recorded task are as in `clone`; with a `reward`, the mean reward of the held-out questions chooses instead of
    the accuracy. Raises InputError before training if data, model, adapter, template or
    settings do not fit.
    """
    settings = settings or Rlef()
    template = template or load_template()
    make = examples(data, template, limit, tasks, settings)
    held_out = load_validation(settings, validation, tasks, max_new_tokens, reward)

    task = recorded_task(tasks) or task_asked(read_candidates(data))
    from trice.training.fine_tune import fit

    return fit(
        "rlef", make, data, model, adapter, output, settings,
        task=task, template=template, seed=seed, limit=limit, device=device, dtype=dtype, validation=held_out,
    )  # fmt: skip
