"""Choose among given responses by their likelihood, and measure the choices as the benchmark When2Call does.

A model's choice is the response with the highest log-probability for each character. This is the rule of When2Call
(H. Ross, A. S. Mahabaleshwarkar, Y. Suhara, "When2Call: When (not) to Call Tools", NAACL 2025): its release runs the
multiple-choice tasks of EleutherAI's lm-evaluation-harness, whose `acc_norm` divides by the length of the text. The
release writes prompts and calls by a function for each model family; here the model's chat template writes both. The
token that ends a turn does not count. The four responses share their prompt, which is computed once. Nothing is
generated or executed here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import torch

from trice.datasets.when2call import CALL, REFUSE
from trice.errors import InputError
from trice.formats.chat import ChatFormat
from trice.messages import Message, read_call
from trice.metrics import Share
from trice.models.local import LocalModel
from trice.progress import Progress
from trice.training.packed_forward import PackedForward
from trice.training.packing import ResponseTokens, TokenizedExample
from trice.training.tokenization import longest_sequence, tokenize_conversation
from trice.types import Question


class Choice(NamedTuple):
    """The log-probability of each response to a question, by its name, and the number of its characters."""

    question: Question
    log_probs: dict[str, float]
    characters: dict[str, int]

    @property
    def right(self) -> str:
        """The name of the right response."""
        return str((self.question.model_extra or {})["right_choice"])

    def chosen(self, *, normalized: bool = True) -> str:
        """The name of the most likely response: for each character, or as a whole if not `normalized`."""
        return max(
            self.log_probs,
            key=lambda name: self.log_probs[name] / (self.characters[name] if normalized else 1),
        )


@dataclass(frozen=True)
class ChoiceMeasures:
    """Measures of choices.

    Attributes:
        accuracy: The share of right choices.
        macro_f1: The mean F1 of all kinds of response that are right or chosen somewhere, as scikit-learn computes it.
        tool_hallucination: Of the questions without any tool, the share for which a call was chosen.
        counts: How often a kind of response (second) was chosen where another one (first) is right.
    """

    accuracy: Share
    macro_f1: float
    tool_hallucination: Share
    counts: dict[tuple[str, str], int]


def choose(loaded: LocalModel, rows: Sequence[Question]) -> list[Choice]:
    """Compute the log-probabilities of the given responses.

    Args:
        loaded: A model, from `trice.models.local.load`.
        rows: Conversations with the fields `choices` (a text or a call by name) and `right_choice`, such as
            `trice.datasets.load("When2Call").test`.

    Raises:
        InputError: If a row has no such fields, or is longer than the model's context.

    Example:
        >>> from trice.datasets import load as load_data
        >>> from trice.models.local import load
        >>> choices = choose(load("smollm2-135m-instruct"), load_data("When2Call").test)     # doctest: +SKIP
        >>> measure_choices(choices).accuracy                                               # doctest: +SKIP
    """
    format, found = loaded.chat_format(), []
    encoded = [_encode(format, row, loaded.context) for row in rows]
    if not encoded:
        return []
    first = list(encoded[0].values())
    with PackedForward(loaded.model, first) as forward, Progress("questions", len(rows)) as progress:
        for row, examples in zip(rows, encoded, strict=True):
            found.append(_score(forward, format, row, examples))
            progress.advance(1)
    return found


def _encode(format: ChatFormat, row: Question, context: int) -> dict[str, TokenizedExample]:
    """The conversation with each of the responses, without the tokens that end a turn."""
    extra = row.model_extra or {}
    if row.messages is None or not isinstance(extra.get("choices"), dict) or "right_choice" not in extra:
        raise InputError(f"question '{row.id}': expected 'messages', 'choices' and 'right_choice'")
    found = {}
    for name, response in extra["choices"].items():
        conversation = [*row.messages, _message(response)]
        example = tokenize_conversation(format, conversation, row.tools or [], prompt=len(row.messages))
        ((ids, loss),) = example.responses
        while ids and ids[-1] in format.end_ids:
            ids = ids[:-1]
        found[name] = TokenizedExample(example.prompt, [ResponseTokens(ids, loss[: len(ids)])], [0.0])
        if (length := longest_sequence(found[name])) > context:
            raise InputError(
                f"question '{row.id}': {length} tokens with the response '{name}', and the model reads at most "
                f"{context}; leave it out"
            )
    return found


def _message(response: Any) -> Message:
    if isinstance(response, dict):
        return Message(role="assistant", tool_calls=[read_call(response)])
    return Message(role="assistant", content=str(response))


@torch.no_grad()
def _score(
    forward: PackedForward, format: ChatFormat, row: Question, examples: dict[str, TokenizedExample]
) -> Choice:
    packed = forward.pack(list(examples.values()))
    logps_N = forward(packed)
    sums_S = logps_N.new_zeros(packed.responses).index_add(0, packed.response_N, logps_N)
    lengths = [len(format.tokenizer.decode(example.responses[0].ids)) for example in examples.values()]
    return Choice(
        row, dict(zip(examples, sums_S.tolist(), strict=True)), dict(zip(examples, lengths, strict=True))
    )


def measure_choices(choices: Sequence[Choice], *, normalized: bool = True) -> ChoiceMeasures:
    """Measure choices by the log-probability for each character, or by the whole one if not `normalized`."""
    counts = Counter((each.right, each.chosen(normalized=normalized)) for each in choices)
    without_tools = [each for each in choices if each.right == REFUSE and not each.question.tools]
    calls = sum(each.chosen(normalized=normalized) == CALL for each in without_tools)
    right = sum(count for (wanted, chosen), count in counts.items() if wanted == chosen)
    return ChoiceMeasures(
        Share(right, len(choices)), _macro_f1(counts), Share(calls, len(without_tools)), dict(counts)
    )


def _macro_f1(counts: Counter[tuple[str, str]]) -> float:
    """The mean of 2·TP / (2·TP + FP + FN) over all kinds of response in `counts`."""
    kinds = {name for pair in counts for name in pair}
    # A right choice counts twice: 2·TP + FP + FN.
    involved = {kind: sum(count * pair.count(kind) for pair, count in counts.items()) for kind in kinds}
    return fmean(2 * counts[kind, kind] / involved[kind] for kind in kinds) if kinds else 0.0
