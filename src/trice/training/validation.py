"""Validation during training: the policy answers held-out questions, and its mean reward chooses the checkpoint.

Responses are generated and graded as in `generate` and `evaluate`: greedy decoding, executed calls, a second turn
if a tool's output is not the answer yet, and the task's judge. The LoRA layers are not merged into the base here,
so a rare response may differ from that of the finished adapter, which is merged to generate. Weights that are
sharded over processes (FSDP, ZeRO-3) are not supported, because no process can generate alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trice.errors import InputError
from trice.formats.prompt import Template
from trice.metrics import Share
from trice.models.sampling import Sampling
from trice.rewards import RewardFunction, correctness, from_function
from trice.stages.generate import respond, with_instruction
from trice.stages.grading import grade
from trice.stages.model_spec import ModelSpec
from trice.stages.score import without_guess
from trice.storage.files import digest, read_rows
from trice.tasks import Tasks, check_questions, check_tools
from trice.tools.executor import remove_sidecars
from trice.training.settings import Clone
from trice.types import Outcome, Question, Response

if TYPE_CHECKING:
    from trice.models.local import LocalModel

METRICS = (
    "eval_reward",
    *(f"eval_{name}{end}" for name in ("accuracy", "tool_use") for end in ("", "_low", "_high")),
)


@dataclass(frozen=True)
class Validation:
    """The held-out questions of the file `data`, their tasks, the longest response, and what a response is worth."""

    data: Path
    questions: list[Question]
    tasks: Tasks
    max_new_tokens: int
    reward: RewardFunction

    def identity(self) -> dict[str, Any]:
        """The inputs, in addition to those of training, that the choice of a checkpoint depends on."""
        return {
            "data": digest(self.data),
            "task": self.tasks.identity,
            "tools": self.tasks.sources,
            "max_new_tokens": self.max_new_tokens,
        }

    def responses(
        self, loaded: LocalModel, template: Template, output: Path, part: int = 0, parts: int = 1
    ) -> list[Response]:
        """The graded responses to every `parts`-th question, starting with number `part`.

        Calls of tools without a version are cached in the folder `output` until training ends (`clear_calls`), so
        no call is paid for twice, and a killed run gets the same results again."""

        from trice.models.generation import TransformersEngine

        spec = ModelSpec(loaded.name, template=template, sampling=Sampling(self.max_new_tokens))
        engine = TransformersEngine(loaded)

        def generate(questions: Sequence[Question]) -> list[Response]:
            return respond(engine, self.tasks, questions, spec, _call_cache(output))

        def second_turns(questions: Sequence[Question]) -> list[str]:
            distinct = {question.input: question for question in questions}
            answers = dict(zip(distinct, generate(list(distinct.values())), strict=True))
            return [answers[question.input].response for question in questions]

        with evaluation_mode(loaded):
            responses = generate(self.questions[part::parts])
            return grade(self.tasks, responses, second_turns, output=_call_cache(output))

    def counts(
        self, loaded: LocalModel, template: Template, output: Path, part: int, parts: int
    ) -> list[float]:
        """The number of these responses, of the correct ones, and of those that call a tool, and the sum of their
        rewards."""
        rows = self.responses(loaded, template, output, part, parts)
        called = sum(row.outcome is Outcome.CALLED for row in rows)
        reward = sum(self.reward([without_guess(self.tasks, row)], None)[0] for row in rows)
        return [len(rows), sum(row.correct is True for row in rows), called, reward]


def load_validation(
    settings: Clone,
    data: Path | None,
    tasks: Tasks | None,
    max_new_tokens: int,
    reward: RewardFunction | None = None,
) -> Validation | None:
    """The held-out questions, or None if these settings do not validate. Without `reward`, a correct response is worth
    1 and a wrong one 0.

    Raises InputError if the settings and `data` do not agree, if a question does not fit its task or cannot be
    answered correctly, and if a tool cannot run."""
    if data is None:
        if settings.eval_steps:
            raise InputError(
                f"eval_steps={settings.eval_steps}: there are no held-out questions; give them as 'validation'"
            )
        return None
    if not settings.eval_steps:
        raise InputError("validation: the steps between validations are missing; add eval_steps=10")
    tasks = tasks or Tasks("math")
    questions = [with_instruction(question, tasks.of(question)) for question in read_rows(data, Question)]
    check_questions(tasks, questions)
    check_tools(tasks, questions)
    reward = reward or from_function(correctness, "correctness")
    return Validation(data, questions, tasks, max_new_tokens, reward)


def validation_metrics(counted: Sequence[float]) -> dict[str, float]:
    """The trainer's metrics from the counts of `Validation.counts`: the mean reward, and accuracy and tool use, each
    with its 95% interval."""
    total, correct, called = map(int, counted[:3])
    shares = Share(correct, total), Share(called, total)
    values = (value for share in shares for value in (share.value, share.low, share.high))
    found = [counted[3] / max(1, total), *values]
    return {name: round(value or 0.0, 6) for name, value in zip(METRICS, found, strict=True)}


def clear_calls(output: Path) -> None:
    """Remove the cached calls of the training in `output`."""
    remove_sidecars(_call_cache(output))


def _call_cache(output: Path) -> Path:
    return output / "validation"


@contextmanager
def evaluation_mode(loaded: LocalModel) -> Iterator[None]:
    """In this context, the model is in eval mode. Its mode and all random states are restored afterwards, so that
    validation does not change the training."""
    import numpy
    import torch

    training, states = loaded.model.training, (random.getstate(), numpy.random.get_state())
    gpus = [loaded.device] if loaded.device.type == "cuda" else []
    # Layers that are compiled for training would be compiled again for every shape of generation.
    with torch.random.fork_rng(gpus), torch.compiler.set_stance("force_eager"):
        loaded.model.eval()
        try:
            yield
        finally:
            loaded.model.train(training)
            random.setstate(states[0])
            numpy.random.set_state(states[1])
