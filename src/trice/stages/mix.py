"""Mix: join what the model knows and what it needs a tool for into one stage-1 file.

`selective` is TRICE's own data: the model's own answer if it was right, the teacher's call if it was wrong. `answers`
and `calls` make the data of the baselines that never and always use a tool. Files of several tasks are joined in the
same way.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from trice.errors import InputError
from trice.progress import notice
from trice.stages.generate import with_instruction
from trice.storage.files import check_output, read_rows, refuse_repeated, write_rows
from trice.tasks import Tasks
from trice.training_data import LabeledQuestion
from trice.types import GRADED, Question, Response

Kind = Literal["selective", "answers", "calls"]


def mix(
    labeled: Sequence[Path],
    output: Path,
    tasks: Tasks,
    *,
    right: Sequence[Path] = (),
    kind: Kind = "selective",
    questions: Sequence[Path] = (),
    seed: int = 0,
) -> int:
    """Write the stage-1 data of `kind` to `output`, shuffled by `seed`; returns the number of rows.

    `labeled` are files with calls (`trice label`), `right` files of known questions (`trice split`), and `questions`
    files of raw questions, whose gold answers become the targets of kind `answers`.
    """
    check_output(output, *labeled, *right, *questions)
    if kind == "answers":
        asked = [row for path in questions for row in read_rows(path, Question)]
        refuse_repeated(asked)
        rows = [_answer(tasks, row) for row in asked if row.answers]
        if len(rows) < len(asked):
            notice(
                f"{output}: left out {len(asked) - len(rows)} of {len(asked)} questions without a gold answer"
            )
    else:
        rows = [row for path in labeled for row in read_rows(path, LabeledQuestion)]
        refuse_repeated(rows)
        if kind == "selective":
            answered = [row for path in right for row in read_rows(path, Response)]
            refuse_repeated(answered, by_question=True)
            # If only a tool can know the answer, the model does not learn to answer without a call.
            known = [known_target(tasks, row) for row in answered if not tasks.requires_tool(row)]
            # A known question that is labeled too (for kind `calls`) keeps the model's own answer.
            keys = {row.key for row in known}
            rows = known + [row for row in rows if row.key not in keys]
    if not rows:
        raise InputError(
            f"{output}: nothing to mix: kind '{kind}' needs other files than those that were given"
        )
    random.Random(seed).shuffle(rows)
    write_rows(output, rows)
    return len(rows)


def _answer(tasks: Tasks, question: Question) -> LabeledQuestion:
    fields = {
        "instruction": with_instruction(question, tasks.of(question)).instruction,
        "output": question.answers[0],
    }
    return LabeledQuestion.model_validate(question.model_dump(exclude=GRADED) | fields)


def known_target(tasks: Tasks, response: Response) -> LabeledQuestion:
    """A known question with the model's own answer as its target."""
    fields = {
        "instruction": with_instruction(response, tasks.of(response)).instruction,
        "output": response.response,
        "completion": response.completion,
    }
    return LabeledQuestion.model_validate(response.model_dump(exclude=GRADED) | fields)
