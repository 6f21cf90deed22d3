"""Both stages of training, and whole recipes, as functions on objects."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from trice.api.data import Source, require_questions
from trice.api.models import Model
from trice.api.stages import graded
from trice.errors import InputError
from trice.progress import notice
from trice.storage.files import read_rows, validate, write_rows
from trice.types import Candidates, LabeledQuestion, Outcome, Question, Response

if TYPE_CHECKING:
    from trice.tasks import TaskLike, Tasks

Reward = Callable[[Question, Response], float]
Examples = str | Path | Iterable[Response | LabeledQuestion | Mapping[str, Any]]


def clone(
    model: Model,
    examples: Examples,
    task: str | TaskLike,
    *,
    seed: int = 0,
    output: str | Path | None = None,
    **settings: Any,
) -> Model:
    """Stage 1, behavior cloning: train a LoRA adapter on one target for each question.

    The loss is the mean of -log p over the response tokens of a batch; prompts and tool results carry none.

    Args:
        model: A local base model.
        examples: `known + labels`: responses of `trice.split`, which are targets themselves, labels of
            `trice.label`, and mappings of `instruction`, `input` and `output`; or a file of such rows, such as
            `trice label` and `trice import` write.
        task: A `trice.Task` or the name of one that ships.
        seed: The seed of the order of examples and of the adapter's initial weights.
        output: A folder for the adapter and its checkpoints.
        settings: Hyper-parameters of stage 1 (docs/reference/recipes.md), such as `num_train_epochs`, `batch_size`,
            `learning_rate` or `lora={"r": 16, "target_modules": "all-linear"}`.

    Returns:
        The trained `Model`. Without `output` its adapter is deleted with it.

    Raises:
        InputError: If a setting is not known, or the model is an endpoint or has an adapter already.

    Example:
        >>> import trice
        >>> model = trice.load("gemma-3-270m")
        >>> row = {"instruction": "Answer.", "input": "What is 271 * 828?", "output": "calculator(271*828)"}
        >>> trice.clone(model, [row], "math", num_train_epochs=1, batch_size=1).adapter is None
        False
    """
    from trice.settings import parse
    from trice.tasks import Tasks
    from trice.training.clone import clone as train
    from trice.training.settings import Clone

    _trainable(model)
    if model.adapter is not None:
        raise InputError(f"{model.adapter}: stage 1 starts from a base model, without an adapter")
    chosen = parse(Clone, settings, "trice.clone")
    tasks = Tasks(task)
    rows = _targets(examples, tasks)
    random.Random(seed).shuffle(rows)
    folder, kept = _adapter_folder(output)
    data = folder / "examples.json"
    write_rows(data, rows)
    model.unload()
    adapter = train(
        data, folder, model.name, settings=chosen, template=model.template, tasks=tasks, seed=seed,
        device=model.device, dtype=model.dtype,
    )  # fmt: skip
    return replace(model, adapter=adapter, _kept=kept)


def rlef(
    model: Model,
    questions: Source,
    task: str | TaskLike,
    *,
    rounds: int = 1,
    samples: int = 4,
    temperature: float = 1.0,
    top_k: int = 50,
    cost: float = 0.1,
    reward: Reward | None = None,
    max_new_tokens: int = 64,
    seed: int = 0,
    output: str | Path | None = None,
    **settings: Any,
) -> Model:
    """Stage 2, reinforcement learning with execution feedback: sample responses, execute and reward them, and train
    on the ranking. `L = alpha * L_rank + sft * L_sft`, with L_sft on the response of highest reward.

    Args:
        model: The policy, usually of `trice.clone`.
        questions: As for `trice.questions`. Gold answers are enough; no calls are needed.
        task: A `trice.Task` or the name of one that ships.
        rounds: How often it samples from the latest policy and trains it.
        samples: The number of candidates for each question.
        temperature: The temperature of the samples.
        top_k: The samples are drawn from the k likeliest tokens; 0 means the whole vocabulary.
        cost: The cost of a call in the default reward: 1 for a correct response minus `cost` for a call, and minus
            `cost` for a malformed response.
        reward: A function `(question, response) -> float` instead. `response` has `outcome`, `call`, `execution`,
            `prediction` and `correct`.
        max_new_tokens: The length limit of a response, in tokens.
        seed: The seed of the samples and of training.
        output: A folder for the adapter. Earlier rounds are in `round-1`, `round-2` and so on within it.
        settings: Hyper-parameters of stage 2 (docs/reference/recipes.md), such as `num_train_epochs`, `alpha` or
        `objective`.

    Returns:
        The trained `Model`. Without `output` its adapter is deleted with it. Questions whose best reward is not
        above 0 are left out of training.

    Raises:
        InputError: If a setting is not known, or no question has a candidate to learn from.

    Example:
        >>> import trice
        >>> stage1 = trice.load("runs/units/stage-1")                                 # doctest: +SKIP
        >>> both = trice.rlef(stage1, "train.jsonl", "math", output="runs/units/both")  # doctest: +SKIP
    """
    from trice.settings import parse
    from trice.tasks import Tasks
    from trice.training.rlef import rlef as train
    from trice.training.settings import Rlef

    _trainable(model)
    if rounds < 1:
        raise InputError(f"trice.rlef: rounds={rounds}; expected 1 or more")
    chosen, rows = parse(Rlef, settings, "trice.rlef"), require_questions(questions)
    tasks = Tasks(task)
    last, kept = _adapter_folder(output)
    how: dict[str, Any] = {"samples": samples, "temperature": temperature, "top_k": top_k}
    how["max_new_tokens"] = max_new_tokens
    policy = model
    for number in range(1, rounds + 1):
        folder = last if number == rounds else last / f"round-{number}"
        candidates = folder / "candidates.json"
        drawn = graded(policy, rows, tasks, candidates, seed=seed + number - 1, **how)
        ranked = _ranked(drawn, cost, reward)
        if not ranked:
            raise InputError("trice.rlef: no question has a candidate with a reward above 0")
        notice(f"rlef, round {number}: {len(ranked)} of {len(rows)} questions have a candidate to learn from")
        data = folder / "ranked.json"
        write_rows(data, ranked)
        policy.unload()
        adapter = train(
            data, folder, policy.name, policy.adapter, settings=chosen, template=policy.template,
            tasks=tasks, seed=seed, device=policy.device, dtype=policy.dtype,
        )  # fmt: skip
        policy = replace(model, adapter=adapter, _kept=kept)
    return policy


def run(recipe: str | Path, *overrides: str) -> Path:
    """Run a recipe: the whole loop, from questions to the report.

    Args:
        recipe: A YAML file, or the name of a recipe that ships, such as `demo`.
        overrides: `key=value`, for instance `"clone.num_train_epochs=1"`.

    Returns:
        The folder of the run, with `report.html`, `results.json` and the trained adapters in `models`.

    Raises:
        InputError: If the recipe does not fit, or its folder was begun with another one.

    Example:
        >>> import trice
        >>> folder = trice.run("recipe.yaml", "output=runs/units")  # doctest: +SKIP
    """
    from trice.recipes import runner
    from trice.recipes.recipe import load_recipe

    return runner.run(load_recipe(str(recipe), overrides))


def _ranked(drawn: Sequence[Response], cost: float, reward: Reward | None) -> list[Candidates]:
    """The distinct candidates of each question with their rewards, where the best reward is above 0."""
    from trice import rewards

    rewarded = rewards.execution(cost)
    if reward is not None:
        rewarded = rewards.from_function(reward, getattr(reward, "__name__", "reward"))
    by_question: dict[tuple[str, str], dict[str, Response]] = {}
    for row in drawn:
        by_question.setdefault((row.dataset, row.id), {}).setdefault(row.response, row)
    found = []
    for distinct in by_question.values():
        rows = [row.model_copy(update={"origin": "policy"}) for row in distinct.values()]
        scores = rewarded(rows, None)
        if max(scores) > 0:
            found.append(Candidates.of(rows[0], rows, scores))
    return found


def _targets(examples: Examples, tasks: Tasks) -> list[LabeledQuestion]:
    """The targets of stage 1. Where only a tool can know the answer, none is taught without a call."""
    from trice.stages.mix import known_target

    if isinstance(examples, str | Path):
        return read_rows(Path(examples), LabeledQuestion)
    rows = []
    for number, row in enumerate(examples, start=1):
        if isinstance(row, Response):
            if row.outcome is Outcome.CALLED or not tasks.requires_tool(row):
                rows.append(known_target(tasks, row))
        elif isinstance(row, LabeledQuestion):
            rows.append(row)
        else:
            rows.append(validate(LabeledQuestion, row, f"example {number}"))
    if not rows:
        raise InputError("trice.clone: there are no examples")
    return rows


def _trainable(model: Model) -> None:
    if model.client is not None:
        raise InputError(f"{model.name}: is behind an endpoint; only a local model can be trained")


def _adapter_folder(output: str | Path | None) -> tuple[Path, TemporaryDirectory[str] | None]:
    """The folder of an adapter; a temporary one is deleted with the object that is returned with it."""
    if output is not None:
        return Path(output), None
    made = TemporaryDirectory(prefix="trice-")
    return Path(made.name), made
