"""Both stages of training, and whole recipes, as functions on objects."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from trice.api.data import Source, require_questions, write_questions
from trice.api.models import Model, require_model
from trice.errors import InputError, check_number
from trice.progress import notice
from trice.storage.files import read_object, read_rows, validate, write_rows, write_text
from trice.storage.inputs import check_same_inputs, input_hash, to_json
from trice.training_data import LabeledQuestion
from trice.types import Outcome, Question, Response

if TYPE_CHECKING:
    from trice.tasks import TaskLike, Tasks

Reward = Callable[[Question, Response], float]
Examples = str | Path | Iterable[Response | LabeledQuestion | Mapping[str, Any]]


def clone(
    model: Model,
    examples: Examples,
    task: str | TaskLike,
    *,
    validation: Source | None = None,
    max_new_tokens: int = 64,
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
        validation: Held-out questions, as for `trice.questions`, which the model answers every `eval_steps` steps; the
            checkpoint with the highest accuracy is kept.
        max_new_tokens: The length limit of a response to them, in tokens.
        seed: The seed of the order of examples and of the adapter's initial weights.
        output: A folder for the adapter and its checkpoints.
        settings: Hyper-parameters of stage 1 (docs/reference/recipes.md), such as `num_train_epochs`, `batch_size`,
            `learning_rate` or `lora={"r": 16, "target_modules": "all-linear"}`.

    Returns:
        The trained `Model`. Without `output` its adapter is deleted with it.

    Raises:
        InputError: If a setting is not known, the model is an endpoint or has an adapter already, or only one of
            `validation` and `eval_steps` is given.

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
    chosen, tasks = parse(Clone, settings, "trice.clone"), Tasks(task)
    check_number("seed", seed, int)
    held_out = _held_out(validation, tasks)
    rows = _targets(examples, tasks)
    random.Random(seed).shuffle(rows)
    folder, kept = _adapter_folder(output)
    data = folder / "examples.json"
    write_rows(data, rows)
    model.unload()
    adapter = train(
        data, folder, model.name, settings=chosen, template=model.template, tasks=tasks, seed=seed,
        validation=_written(held_out, folder), max_new_tokens=max_new_tokens, device=model.device,
        dtype=model.dtype,
    )  # fmt: skip
    return replace(model, adapter=adapter, _kept=kept)


def rlef(
    model: Model,
    questions: Source,
    task: str | TaskLike,
    *,
    rounds: int = 1,
    samples: int = 4,
    max_samples: int = 32,
    cost: float = 0.1,
    labels: Examples | None = None,
    reward: Reward | None = None,
    validation: Source | None = None,
    max_new_tokens: int = 64,
    seed: int = 0,
    output: str | Path | None = None,
    **settings: Any,
) -> Model:
    """Stage 2, reinforcement learning with execution feedback: sample responses, execute and reward them, and train
    on them. `L = alpha * L_rank + sft * L_sft`, with L_sft on the best response of each question.

    Each round samples from the latest policy. Questions without a right response get more samples. Then `model` is
    trained on everything that is solved so far, on each question's own best response. With the objective `grpo` or
    `reinforce`, the latest policy is trained on all responses of the round.

    Args:
        model: The policy, usually of `trice.clone`.
        questions: As for `trice.questions`, preferably others than those of stage 1. Gold answers are enough; no
            calls are needed.
        task: A `trice.Task` or the name of one that ships.
        rounds: How often it samples from the latest policy and trains.
        samples: The number of responses to each question.
        max_samples: The largest number of responses to a question without a right one. Each pass of sampling doubles
            their number.
        cost: The cost of a call in the default reward: 1 for a correct response minus `cost` for each call, and minus
            `cost` for a malformed response.
        labels: The examples of stage 1, which each round trains on again, or a share of them (`replay`).
        reward: A function `(question, response) -> float` instead. `response` has `outcome`, `call`, `execution`,
            `prediction` and `correct`.
        validation: Held-out questions, which the policy answers before a round trains and every `eval_steps` steps of
            it. The policy with the highest mean reward is kept: one that a round made, or the one it started from.
        max_new_tokens: The length limit of a response, in tokens.
        seed: The seed of the samples and of training.
        output: A folder for the adapter. Earlier rounds are in `round-1`, `round-2` and so on within it.
        settings: `temperature`, `top_k`, `budget` and `arms` of the samples, `replay`, `utility`, and hyper-parameters
            of stage 2 (docs/reference/recipes.md), such as `num_train_epochs` or `objective`.

    Returns:
        The trained `Model`. Without `output` its adapter is deleted with it.

    Raises:
        InputError: If a setting is not known, no question has a response to learn from, `output` holds rounds with
            other inputs, or only one of `validation` and `eval_steps` is given.

    Example:
        >>> import trice
        >>> stage1 = trice.load("runs/units/stage-1")                                 # doctest: +SKIP
        >>> both = trice.rlef(stage1, "train.jsonl", "math", rounds=2, output="runs/units/both")  # doctest: +SKIP
    """
    from trice import rewards
    from trice.settings import parse
    from trice.tasks import Tasks
    from trice.training.on_policy import RANKED_FILE, describe_round, sample_round
    from trice.training.rlef import rlef as train
    from trice.training.settings import OnPolicy
    from trice.training.validation import load_validation

    _trainable(model)
    if rounds < 1:
        raise InputError(f"trice.rlef: rounds={rounds}; expected 1 or more")
    named = {"rounds": rounds, "samples": samples, "max_samples": max(samples, max_samples), "cost": cost}
    chosen, rows = parse(OnPolicy, named | settings, "trice.rlef"), require_questions(questions)
    if labels is not None and not chosen.replay:
        raise InputError("trice.rlef: replay=0 trains on no labels again; leave out labels, or set replay")
    tasks = Tasks(task)
    last, kept = _adapter_folder(output)
    held_out = _held_out(validation, tasks)
    check_number("seed", seed, int)
    known = None if labels is None else _targets(labels, tasks)
    name = getattr(reward, "__name__", "reward") if reward else "execution"
    if reward is not None:
        rewards.check_function(reward, name)
    _check_rounds(
        last,
        model.spec(max_new_tokens=max_new_tokens).settings()
        | chosen.identity()
        | {"task": tasks.identity, "reward": name, "seed": seed}
        | {"questions": input_hash(rows), "labels": input_hash(known)}
        | ({"validation": input_hash(held_out)} if held_out else {}),
    )
    data, examples = write_questions(last, rows), None
    if known is not None:
        examples = last / "examples.json"
        write_rows(examples, known)
    rewarded = rewards.from_function(reward, name) if reward else rewards.execution(cost)
    asked = _written(held_out, last)
    load_validation(chosen.training, asked, tasks, max_new_tokens)  # refuses before sampling
    policy, earlier = model, None
    for number in range(1, rounds + 1):
        folder = last if number == rounds else last / f"round-{number}"
        summary = sample_round(
            [data], folder, tasks, policy.spec(max_new_tokens=max_new_tokens), chosen, reward=rewarded,
            earlier=earlier, labels=examples, seed=1000 * seed + number,
        )  # fmt: skip
        notice(f"rlef, round {number}: {describe_round(summary)}")
        policy.unload()
        earlier = folder / RANKED_FILE
        start = policy if chosen.policy_gradient else model
        adapter = train(
            earlier, folder, model.name, start.adapter, settings=chosen.training, template=model.template,
            validation=asked, reward=rewarded, tasks=tasks, max_new_tokens=max_new_tokens, seed=seed,
            device=model.device, dtype=model.dtype,
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
        raise InputError(
            "there are no labeled examples; give those of trice.split and trice.label, or a file"
        )
    return rows


def _check_rounds(folder: Path, inputs: dict[str, Any]) -> None:
    """Record the inputs of the rounds in a folder. Raises InputError if a policy was trained there from other inputs,
    before its questions are replaced and responses are sampled that no training could use."""
    from trice.models.adapters import TRAINING_RECORD

    record, now = folder / "rlef.json", json.loads(to_json(inputs))
    trained = (
        path for pattern in (TRAINING_RECORD, f"round-*/{TRAINING_RECORD}") for path in folder.glob(pattern)
    )
    if any(trained):
        if not record.is_file():
            raise InputError(f"{folder}: holds another training; choose another output")
        check_same_inputs(folder, read_object(record), now, "another output")
    write_text(record, json.dumps(now, indent=2) + "\n")


def _trainable(model: Model) -> None:
    if require_model(model).client is not None:
        raise InputError(f"{model.name}: is behind an endpoint; only a local model can be trained")


def _held_out(source: Source | None, tasks: Tasks) -> list[Question] | None:
    """The questions that validate a training. Raises InputError if one does not fit the task."""
    from trice.tasks import check_questions

    if source is None:
        return None
    rows = require_questions(source)
    check_questions(tasks, rows)
    return rows


def _written(held_out: list[Question] | None, folder: Path) -> Path | None:
    """The file of the questions that validate a training in `folder`."""
    return None if held_out is None else write_questions(folder / "held-out", held_out)


def _adapter_folder(output: str | Path | None) -> tuple[Path, TemporaryDirectory[str] | None]:
    """The folder of an adapter; a temporary one is deleted with the object that is returned with it."""
    if output is not None:
        return Path(output), None
    made = TemporaryDirectory(prefix="trice-")
    return Path(made.name), made
