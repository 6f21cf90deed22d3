"""Validation: held-out questions, answered by the policy as it stands in the middle of its training.

The path is that of `generate` and `evaluate`: greedy responses, calls executed, a tool's output read in a second
turn where it is no answer yet, the task's own judge. LoRA layers stay apart from the base's weights, so a rare
response may differ from the finished adapter's, which is merged to generate. Does not cover weights that are
spread over processes (FSDP, ZeRO-3), with which no process can generate alone.
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
from trice.stages.generate import respond, with_instruction
from trice.stages.grading import grade
from trice.stages.model_spec import ModelSpec
from trice.storage.files import digest, read_rows
from trice.tasks import Sources, Tasks, check_questions, check_tools
from trice.tools.executor import remove_sidecars
from trice.training.settings import Clone
from trice.types import Outcome, Question, Response

if TYPE_CHECKING:
    from trice.models.local import LocalModel

METRICS = tuple(f"eval_{name}{end}" for name in ("accuracy", "tool_use") for end in ("", "_low", "_high"))


@dataclass(frozen=True)
class Validation:
    """The held-out questions in the file `data`, and how they are asked: `task` names the `tasks`."""

    data: Path
    questions: list[Question]
    task: str
    tasks: Tasks
    max_new_tokens: int

    def made_by(self) -> dict[str, Any]:
        """All that the choice of a checkpoint depends on besides the training."""
        how = {"task": self.task, "tools": self.tasks.sources, "max_new_tokens": self.max_new_tokens}
        return {"data": digest(self.data)} | how

    def responses(
        self, loaded: LocalModel, template: Template, output: Path, part: int = 0, parts: int = 1
    ) -> list[Response]:
        """The graded responses to every `parts`-th question from number `part` on.

        Calls of tools without a version are kept beside the adapter `output` until its training ends (`clear`):
        none is paid for twice, and a run that was killed finds what it found before."""

        from trice.models.generation import TransformersEngine

        spec = ModelSpec(loaded.name, template=template, sampling=Sampling(self.max_new_tokens))
        engine = TransformersEngine(loaded)

        def write(questions: Sequence[Question]) -> list[Response]:
            return respond(engine, self.tasks, questions, spec)

        def ask_again(questions: Sequence[Question]) -> list[str]:
            distinct = {question.input: question for question in questions}
            answers = dict(zip(distinct, write(list(distinct.values())), strict=True))
            return [answers[question.input].response for question in questions]

        with undisturbed(loaded):
            return grade(self.tasks, write(self.questions[part::parts]), ask_again, output=_kept(output))

    def counts(
        self, loaded: LocalModel, template: Template, output: Path, part: int, parts: int
    ) -> list[int]:
        """Of these responses how many there are, how many are right, and how many call a tool."""
        rows = self.responses(loaded, template, output, part, parts)
        called = sum(row.outcome is Outcome.CALLED for row in rows)
        return [len(rows), sum(row.correct is True for row in rows), called]


def load_validation(
    settings: Clone, data: Path | None, task: str, tools: Sources | None, max_new_tokens: int
) -> Validation | None:
    """The questions that these settings validate on, None where they do not.

    Raises InputError where settings and `data` do not go together, for a question that does not fit its task or
    could never be answered right, and for a tool that lacks what it needs."""
    if data is None:
        if settings.validate_every:
            raise InputError(
                f"validate_every={settings.validate_every}: there are no held-out questions: give --validation"
            )
        return None
    if not settings.validate_every:
        raise InputError(f"--validation {data}: say how often, for instance validate_every=10")
    tasks = Tasks(task, tools)
    questions = [with_instruction(question, tasks.of(question)) for question in read_rows(data, Question)]
    check_questions(tasks, questions)
    check_tools(tasks, questions)
    return Validation(data, questions, task, tasks, max_new_tokens)


def validation_metrics(counted: Sequence[int]) -> dict[str, float]:
    """What was counted as the trainer's metrics: accuracy and tool use, each with its 95% interval."""
    total, right, called = counted
    shares = Share(right, total), Share(called, total)
    values = (value for share in shares for value in (share.value, share.low, share.high))
    return {name: round(value or 0.0, 6) for name, value in zip(METRICS, values, strict=True)}


def clear(output: Path) -> None:
    """Remove the calls that were kept while the adapter `output` was trained."""
    remove_sidecars(_kept(output))


def _kept(output: Path) -> Path:
    return output / "validation"


@contextmanager
def undisturbed(loaded: LocalModel) -> Iterator[None]:
    """Within it the model writes as it will when it is trained, without dropout; after it, its mode and all random
    states are what they were."""
    import numpy
    import torch

    training, states = loaded.model.training, (random.getstate(), numpy.random.get_state())
    gpus = [loaded.device] if loaded.device.type == "cuda" else []
    # Layers that were compiled to train would be compiled anew for every shape that generation has.
    with torch.random.fork_rng(gpus), torch.compiler.set_stance("force_eager"):
        loaded.model.eval()
        try:
            yield
        finally:
            loaded.model.train(training)
            random.setstate(states[0])
            numpy.random.set_state(states[1])
