"""The stages of a run, called with the settings of a recipe, in the order in which they run.

`trice.recipes.plan` says which steps a run has and what each depends on. `trice.recipes.runner` checks a recipe and
locks its folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trice.progress import notice
from trice.recipes.conditions import RANKED, TOOL_CHOICES, Variant
from trice.recipes.paths import RunPaths
from trice.recipes.recipe import Recipe
from trice.recipes.resolve import licences, load_data, open_endpoint
from trice.recipes.sections import Origin
from trice.rewards import load_reward
from trice.stages.collect import collect, collect_gold, collect_split, origin_path
from trice.stages.evaluate import describe, evaluate
from trice.stages.generate import generate, with_instruction
from trice.stages.label import label, reading_path
from trice.stages.mix import mix
from trice.stages.model_spec import ModelSpec
from trice.stages.prepare_data import raw_row
from trice.stages.score import score
from trice.stages.split import split
from trice.storage.files import write_rows
from trice.tasks import Tasks
from trice.tools.ray_executor import runner
from trice.types import Question

if TYPE_CHECKING:
    from trice.stages.teachers import Teacher

HALVES = ("wrong", "right")  # of a data set, as the base model answers without tools


def _filled(paths: Iterable[Path]) -> list[Path]:
    """The files that hold rows: a model may be right on nothing, and all labels of a file may be rejected."""
    return [path for path in paths if path.is_file() and path.stat().st_size]


class Pipeline:
    """The stages of one recipe, whose files are in `folder`.

    With `per_task` the recipe is one of several in the same folder. With `retry`, stages try failed rows again."""

    def __init__(self, recipe: Recipe, folder: Path, *, per_task: bool = False, retry: bool = False) -> None:
        self.recipe, self.retry = recipe, retry
        self.tasks = Tasks(recipe.tasks, recipe.tools)
        self.paths = RunPaths(folder, self.tasks.name, per_task)
        self.datasets = [entry.dataset for entry in recipe.data if entry.train != 0]

    def data(self) -> str:
        """The training, held-out and test questions."""
        tests: list[Question] = []
        held_out: list[Question] = []
        counts = []
        count = self.recipe.validation
        for entry in self.recipe.data:
            part = load_data(self.recipe, entry)
            train, test = part.train, part.test
            if entry.file:
                by = f"split by seed {self.recipe.seed}"
                notice(f"{entry.file}: {len(train)} questions to train on, {len(test)} to test ({by})")
            if count and train:
                train, validation = part.train[:-count], part.train[-count:]
                held_out += [with_instruction(question, self.tasks.of(question)) for question in validation]
                test = part.test if self.recipe.validates else validation
            if train:
                write_rows(self.paths.train(entry.dataset), map(raw_row, train))
            tests += [with_instruction(question, self.tasks.of(question)) for question in test]
            counts.append(f"{entry.dataset} {len(train)} + {len(test)}")
        write_rows(self.paths.tests, tests)
        if self.recipe.validates:
            write_rows(self.paths.validation, held_out)
        return "questions to train + test: " + ", ".join(counts)

    def split(self, dataset: str) -> object:
        """The base model answers the training questions without tools."""
        recipe, chosen = self.recipe, self.recipe.split
        most = chosen.max_new_tokens or recipe.max_new_tokens
        spec = self._without_tools(sampling=recipe.sampling(max_new_tokens=most))
        return split(
            self.paths.train(dataset), self.tasks, spec, samples=chosen.samples,
            temperature=chosen.temperature, known=chosen.known, retry=self.retry,
        )  # fmt: skip

    def _without_tools(self, **changes: Any) -> ModelSpec:
        """The base model with tools withheld. What it answers wrong needs a tool, among the training questions
        (`split`) and among the test questions (`zero-shot`)."""
        return self._model_spec(few_shot=self.recipe.split.few_shot, tool_choice="none", **changes)

    def label(self, dataset: str, half: str) -> object:
        """The teacher gives calls for one half of a data set."""
        recipe = self.recipe
        return label(
            self.paths.half(dataset, half), self.paths.labels(dataset, half), self.tasks, self._teacher(),
            reading=recipe.label.reading, retry=self.retry,
        )  # fmt: skip

    def _teacher(self) -> Teacher:
        from trice.stages.teachers import load_teacher

        chosen = self.recipe.label
        client = open_endpoint(chosen.endpoint) if chosen.endpoint else None
        return load_teacher(chosen.teacher, self.tasks, client, chosen.retries, chosen.prompt)

    def mix(self) -> None:
        """The stage-1 data of every trained condition: stage-1, and the 0% and 100% tool baselines."""
        task, seed, paths = self.tasks, self.recipe.seed, self.paths
        wrong = _filled(paths.labels(name, "wrong") for name in self.datasets)
        right = _filled(paths.labels(name, "right") for name in self.datasets)
        known = _filled(paths.half(name, "right") for name in self.datasets)
        questions = list(map(paths.train, self.datasets))
        mix(wrong, self.labelled, task, right=known, seed=seed)
        mix([], paths.mixed("tool-0"), task, kind="answers", questions=questions, seed=seed)
        if self.recipe.label.reading:
            wrong += _filled(map(reading_path, wrong))
            right += _filled(map(reading_path, right))
            mix(wrong, paths.mixed("stage-1"), task, right=known, seed=seed)
        if wrong or right:
            mix([*wrong, *right], paths.mixed("tool-100"), task, kind="calls", seed=seed)

    @property
    def labelled(self) -> Path:
        """The stage-1 data without second turns. Candidates are collected for its questions."""
        reads = self.recipe.label.reading
        return self.paths.stage1 / "questions.json" if reads else self.paths.mixed("stage-1")

    def train(self, variant: Variant) -> None:
        from trice.training.clone import clone
        from trice.training.rlef import rlef

        recipe, output, data = self.recipe, self.paths.model(variant), self.training_data(variant)
        ranked = variant.condition in RANKED
        options: dict[str, Any] = {
            "template": recipe.template, "seed": self.recipe.evaluate.seed_of(variant), "device": recipe.device,
            "dtype": recipe.dtype, "task": recipe.tasks,
        }  # fmt: skip
        if (recipe.rlef if ranked else recipe.clone).eval_steps:
            options |= {"validation": self.paths.validation, "tools": recipe.tools}
            options |= {"max_new_tokens": recipe.max_new_tokens}
        if ranked:
            both = variant.condition == "both"
            adapter = self.paths.model(Variant("stage-1", variant.seed)) if both else None
            rlef(data, output, recipe.model, adapter, settings=recipe.rlef, **options)
        else:
            clone(data, output, recipe.model, settings=recipe.clone, **options)

    def training_data(self, variant: Variant) -> Path:
        """The file that a variant is trained on."""
        return self.paths.ranked if variant.condition in RANKED else self.paths.mixed(variant.condition)

    def collect_gold(self) -> None:
        """The stage-1 targets as candidates."""
        collect_gold(self.labelled, self.paths.stage2, self.tasks)

    def collect(self, origin: Origin) -> None:
        """Candidates from one origin."""
        recipe, data, folder = self.recipe, self.labelled, self.paths.stage2
        if origin.source == "split":
            collect_split(data, _filled(self.halves()), folder, self.tasks, origin.origin)
            return
        sampling = recipe.sampling(
            samples=origin.samples, temperature=origin.temperature, top_k=origin.top_k, top_p=origin.top_p,
            repetition_penalty=origin.repetition_penalty, beams=origin.beams,
        )  # fmt: skip
        spec = self._model_spec(
            few_shot=origin.few_shot, tool_choice=origin.tool_choice, sampling=sampling,
            **self._origin_model(origin),
        )  # fmt: skip
        collect(data, folder, self.tasks, origin.origin, spec, retry=self.retry)

    def halves(self) -> list[Path]:
        """The files of `split`, some of which may not exist."""
        return [self.paths.half(name, half) for name in self.datasets for half in HALVES]

    def origin(self, name: str) -> Path:
        """The candidates of an origin."""
        return origin_path(self.paths.stage2, self.tasks, name)

    def _origin_model(self, origin: Origin) -> dict[str, Any]:
        """The model of an origin: an endpoint, a checkpoint of stage 1, or any model with adapter and template."""
        if origin.endpoint is not None:
            return {"model": origin.endpoint.model, "client": open_endpoint(origin.endpoint)}
        if origin.source == "model":
            template = origin.template or self.recipe.template
            return {"model": origin.model, "adapter": origin.adapter, "template": template}
        stage1 = self.paths.model(Variant("stage-1"))
        if origin.source == "early":
            steps = sorted(stage1.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
            return {"adapter": steps[0] if steps else stage1}
        return {"adapter": stage1 if origin.source == "stage-1" else None}

    def score(self) -> str:
        recipe, chosen = self.recipe, self.recipe.score
        stage1 = self.paths.model(Variant("stage-1"))
        reader = self._model_spec(adapter=stage1) if chosen.second_turn else None
        rows = score(
            self.paths.stage2, self.paths.ranked, self.tasks, reward=load_reward(chosen.reward),
            distinct=chosen.distinct,
            spec=reader, runner=runner(recipe.engine, recipe.workers),
        )  # fmt: skip
        count = sum(len(row.candidates) for row in rows)
        return f"{count} candidates of {len(rows)} questions, {count / len(rows):.1f} each"

    def generate(self, variant: Variant) -> None:
        generate(
            self.paths.tests, self.paths.response(variant), self.tasks, self._evaluated_model(variant),
            origin=variant.name, retry=self.retry,
            auto_responses=self._shared(variant, RunPaths.response),
        )  # fmt: skip

    def evaluate(self, variant: Variant) -> str:
        recipe = self.recipe
        measures = evaluate(
            self.paths.response(variant), self.paths.result(variant), self.tasks,
            spec=self._evaluated_model(variant),
            runner=runner(recipe.engine, recipe.workers), any_passage=recipe.evaluate.any_passage,
            auto_results=self._shared(variant, RunPaths.result),
        )  # fmt: skip
        return describe({"all": measures["total"]})

    def _shared(self, variant: Variant, path: Callable[[RunPaths, Variant], Path]) -> Path | None:
        """For a variant with a tool choice, a file of the same model without one, if it exists: responses that the
        tool choice does not change are copied from it."""
        if variant.condition not in TOOL_CHOICES:
            return None
        found = path(self.paths, self.recipe.evaluate.model_of(variant) or variant)
        return found if found.is_file() else None

    def _evaluated_model(self, variant: Variant) -> ModelSpec:
        """The model of a variant, and how it is asked the test questions."""
        if variant.condition == "zero-shot":
            return self._without_tools()
        model = self.recipe.evaluate.model_of(variant)
        return self._model_spec(
            adapter=self.paths.model(model) if model else None,
            few_shot=self.recipe.evaluate.few_shot if variant.condition == "few-shot" else None,
            tool_choice=TOOL_CHOICES.get(variant.condition, "auto"),
        )

    def _model_spec(self, **changes: Any) -> ModelSpec:
        recipe = self.recipe
        fields: dict[str, Any] = {
            "model": recipe.model, "template": recipe.template, "sampling": recipe.sampling(),
            "batch_size": recipe.batch_size, "device": recipe.device, "dtype": recipe.dtype,
            "engine": recipe.engine, "workers": recipe.workers,
        }  # fmt: skip
        return ModelSpec(**(fields | changes))

    def report(self) -> None:
        """The report of all variants, and a card for each model."""
        from trice.report import measured, write_report
        from trice.training.model_card import write_card

        recipe, folder = self.recipe, self.paths.folder
        write_report([folder])
        measures = measured(folder, {entry.dataset for entry in recipe.data})
        for variant in recipe.evaluate.trained():
            write_card(
                self.paths.model(variant), self.training_data(variant), measures.get(variant.name),
                licences=licences(recipe), task=recipe.tasks,
            )  # fmt: skip
