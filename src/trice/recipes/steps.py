"""The steps of a run in order: what each is called, which settings and files it depends on, and the call that does it.

`trice.recipes.runner` runs the steps, and `trice.storage.run_store` skips those that are finished. Nothing is computed
until the `work` of a step is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from trice.formats.prompt import prompt_template
from trice.models.call_threshold import CALIBRATION, Calibration, read_calibration
from trice.recipes.conditions import RANKED, REPEATED, TOOL_CHOICES, Variant
from trice.recipes.models import model_spec, opened_origin_model, split_model, variant_model
from trice.recipes.paths import RunPaths, adapter_files
from trice.recipes.questions import write_questions
from trice.recipes.recipe import Recipe
from trice.recipes.sections import Origin
from trice.rewards import RewardFunction, execution, load_reward
from trice.stages.calibrate import DECISIONS, answer_both_ways, calibrate, decidable, write_decisions
from trice.stages.collect import GOLD, collect, collect_gold, collect_split, origin_path
from trice.stages.evaluate import describe, evaluate
from trice.stages.generate import generate
from trice.stages.label import label, reading_path
from trice.stages.mix import mix
from trice.stages.score import score
from trice.stages.split import answers_path, split
from trice.stages.teachers import load_teacher
from trice.storage.files import read_rows
from trice.storage.run_store import Step
from trice.tasks import Tasks
from trice.tools.executor import sidecar
from trice.tools.ray_executor import runner
from trice.training.on_policy import RANKED_FILE, SUMMARY_FILE, describe_round, sample_round
from trice.types import Question

HALVES = ("wrong", "right")  # of a data set, as the base model answers without tools
# The settings that the files of a step depend on, by their keys in `trice.recipes.inputs`.
TASK = ("task", "judge", "per_task")
MODEL = (*TASK, "model", "format", "template", "dtype", "engine", "max_new_tokens", "seed", "tools")
VALIDATION = ("validation", "checkpoints chosen by validation")
SPLIT = (*MODEL, "split")
LABEL = (*TASK, "tools", "label")
TRAIN = (*TASK, *VALIDATION, "model", "format", "template", "dtype", "evaluate.first seed")
STAGE_1 = Variant("stage-1")


def _filled(paths: Iterable[Path]) -> list[Path]:
    """The files that hold rows: a model may be right on nothing, and all labels of a file may be rejected."""
    return [path for path in paths if path.is_file() and path.stat().st_size]


class Steps:
    """The steps of one recipe, or with `per_task` of one of its parts. With `retry`, the stages try failed rows
    again."""

    def __init__(self, recipe: Recipe, *, retry: bool = False) -> None:
        self.recipe, self.retry = recipe, retry
        self.tasks = Tasks(recipe.tasks, recipe.tools)
        self.paths = RunPaths(
            recipe.folder, self.tasks.name, recipe.per_task, bool(recipe.label.reading), recipe.rlef.rounds
        )
        self.datasets = [entry.dataset for entry in recipe.data if entry.train != 0]

    def __iter__(self) -> Iterator[Step]:
        """The steps in order, finished ones too. Which steps follow may depend on the files of those before."""
        yield self.data()
        if self.recipe.clones:
            yield from map(self.split, self.datasets)
            for dataset in self.datasets:
                for half in self._halves(dataset):
                    yield self.label(dataset, half)
            yield self.mix()
        trained = self.recipe.trained
        first_ranked = next((variant for variant in trained if variant.condition in RANKED), None)
        for variant in trained:
            if variant.condition in RANKED and self.recipe.rlef.rounds:
                for number in range(1, self.recipe.rlef.rounds + 1):
                    yield self.sample(variant, number)
                    yield self.train(variant, number)
                continue
            if variant == first_ranked:
                yield self.collect_gold()
                yield from map(self.collect, self.recipe.collect)
                yield self.score()
            yield self.train(variant)
        for variant in self.recipe.evaluate.evaluated():
            yield self.generate(variant)
            yield self.evaluate(variant)
            if self.recipe.calibrate.questions and variant.condition in REPEATED:
                yield self.calibrate(variant)
                yield self.answer_both_ways(variant)

    def _step(self, kind: str, work: Callable[[], object], *subject: str, **fields: Any) -> Step:
        name = " ".join((kind, *subject))
        return Step(f"{self.paths.task}: {name}" if self.paths.per_task else name, kind, work, **fields)

    def data(self) -> Step:
        """The training, held-out and test questions."""
        trained_on = dict.fromkeys([*map(self.paths.train, self.datasets), *self._asked_in_rounds()])
        return self._step(
            "data", lambda: write_questions(self.recipe, self.tasks, self.paths),
            keys=(*TASK, *VALIDATION, "data", "scale", "seed", *self._calibrated),
            outputs=(*trained_on, self.paths.tests),
        )  # fmt: skip

    def split(self, dataset: str) -> Step:
        """The base model answers the training questions without tools."""
        recipe, settings, source = self.recipe, self.recipe.split, self.paths.train(dataset)

        def work() -> object:
            return split(
                source, self.tasks, split_model(recipe), samples=settings.samples,
                temperature=settings.temperature, known=settings.known, retry=self.retry,
            )  # fmt: skip

        outputs = tuple(self.paths.half(dataset, half) for half in HALVES)
        return self._step(
            "split", work, dataset, dataset=dataset, keys=SPLIT, inputs=(source,), outputs=outputs,
            progress=answers_path(source),
        )  # fmt: skip

    def _halves(self, dataset: str) -> Sequence[str]:
        """The halves of a data set that hold questions; before it is split, both."""
        return [half for half in HALVES if self.paths.half(dataset, half).is_file()] or HALVES

    def label(self, dataset: str, half: str) -> Step:
        """The teacher gives calls for one half of a data set."""
        settings = self.recipe.label
        source, output = self.paths.half(dataset, half), self.paths.labels(dataset, half)

        def work() -> object:
            client = settings.endpoint.open() if settings.endpoint else None
            teacher = load_teacher(settings.teacher, self.tasks, client, settings.retries, settings.prompt)
            return label(source, output, self.tasks, teacher, reading=settings.reading, retry=self.retry)

        return self._step(
            "label", work, dataset, half, dataset=dataset, keys=LABEL, inputs=(source,), outputs=(output,),
            progress=output,
        )  # fmt: skip

    def mix(self) -> Step:
        """The stage-1 data of every trained condition: stage-1, and the 0% and 100% tool baselines."""
        paths, tasks, seed = self.paths, self.tasks, self.recipe.seed
        questions = [paths.train(name) for name in self.datasets]
        halves = [paths.half(name, half) for half in HALVES for name in self.datasets]
        labels = [paths.labels(name, half) for half in HALVES for name in self.datasets]

        def work() -> None:
            count = len(self.datasets)
            wrong, right, known = map(_filled, (labels[:count], labels[count:], halves[count:]))
            mix(wrong, paths.labeled, tasks, right=known, seed=seed)
            if any(row.answers for path in questions for row in read_rows(path, Question)):
                mix([], paths.mixed("tool-0"), tasks, kind="answers", questions=questions, seed=seed)
            if paths.reading:
                wrong += _filled(map(reading_path, wrong))
                right += _filled(map(reading_path, right))
                mix(wrong, paths.mixed("stage-1"), tasks, right=known, seed=seed)
            if wrong or right:
                mix([*wrong, *right], paths.mixed("tool-100"), tasks, kind="calls", seed=seed)

        outputs = (paths.labeled, *map(paths.mixed, ("stage-1", "tool-0", "tool-100")))
        return self._step(
            "mix", work, keys=(*LABEL, "seed"), outputs=tuple(dict.fromkeys(outputs)),
            inputs=(*questions, *halves, *labels, *map(reading_path, labels)),
        )  # fmt: skip

    def _candidates(self, origin: str) -> Path:
        return origin_path(self.paths.candidates, self.tasks, origin)

    def collect_gold(self) -> Step:
        """The targets of stage 1 are candidates too."""
        source = self.paths.labeled
        return self._step(
            "collect", lambda: collect_gold(source, self.paths.candidates, self.tasks), GOLD, origin=GOLD,
            keys=TASK, inputs=(source,), outputs=(self._candidates(GOLD),),
        )  # fmt: skip

    def collect(self, origin: Origin) -> Step:
        """The candidates of one origin."""
        name, source, folder = origin.origin, self.paths.labeled, self.paths.candidates
        inputs, output = [source], self._candidates(name)
        if origin.source == "split":
            inputs += [self.paths.half(dataset, half) for dataset in self.datasets for half in HALVES]
        elif origin.source in ("early", "stage-1"):
            inputs += [self.paths.weights(STAGE_1)]

        def work() -> None:
            if origin.source == "split":
                collect_split(source, _filled(inputs[1:]), folder, self.tasks, name)
            else:
                spec = opened_origin_model(self.recipe, origin, self.paths)
                collect(source, folder, self.tasks, name, spec, retry=self.retry)

        return self._step(
            "collect", work, name, origin=name, keys=(*MODEL, "collect"), inputs=tuple(inputs),
            outputs=(output,), progress=output,
        )  # fmt: skip

    def score(self) -> Step:
        """Every candidate gets its reward."""
        recipe, settings, output = self.recipe, self.recipe.score, self.paths.ranked
        origins = [GOLD, *(origin.origin for origin in recipe.collect)]
        weights = [self.paths.weights(STAGE_1)] if settings.second_turn else []

        def work() -> str:
            reader = model_spec(recipe, adapter=self.paths.model(STAGE_1)) if weights else None
            rows = score(
                self.paths.candidates, output, self.tasks, reward=load_reward(settings.reward),
                distinct=settings.distinct, spec=reader, runner=runner(recipe.engine, recipe.workers),
            )  # fmt: skip
            count = sum(len(row.candidates) for row in rows)
            return f"{count} candidates of {len(rows)} questions, {count / len(rows):.1f} each"

        return self._step(
            "score", work, keys=(*MODEL, "score"), inputs=(*map(self._candidates, origins), *weights),
            outputs=(output,), progress=sidecar(output, "turned"),
        )  # fmt: skip

    def _asked_in_rounds(self) -> list[Path]:
        """The questions of the rounds: those that are set apart for them, else the training questions."""
        paths = []
        for entry in self.recipe.data:
            if entry.has_feedback:
                paths.append(self.paths.feedback(entry.dataset))
            elif entry.train != 0:
                paths.append(self.paths.train(entry.dataset))
        return paths

    def _policy_before(self, variant: Variant, number: int) -> Path | None:
        """The adapter of the policy before a round: of the round before, or of stage 1. None is the base model."""
        if number > 1:
            return self.paths.round_model(variant, number - 1)
        return self.paths.model(Variant("stage-1", variant.seed)) if variant.condition == "both" else None

    def _reward_of_rounds(self) -> RewardFunction:
        # `paper` and `released` compare with a label, which the questions of rounds do not have.
        name = self.recipe.score.reward
        return load_reward(name) if ":" in name else execution(self.recipe.rlef.cost)

    def sample(self, variant: Variant, number: int) -> Step:
        """The policy answers the questions of a round of stage 2."""
        recipe, paths, questions = self.recipe, self.paths, self._asked_in_rounds()
        output, seed = paths.round(variant, number), recipe.evaluate.seed_of(variant)
        policy = self._policy_before(variant, number)
        earlier = paths.round_data(variant, number - 1) if number > 1 else None
        labels = paths.mixed("stage-1") if variant.condition == "both" else None

        def work() -> str:
            summary = sample_round(
                questions, output, self.tasks, model_spec(recipe, adapter=policy), recipe.rlef,
                reward=self._reward_of_rounds(), earlier=earlier, labels=labels, seed=1000 * seed + number,
                retry=self.retry,
            )  # fmt: skip
            return describe_round(summary)

        inputs = (*questions, earlier, labels, policy and adapter_files(policy)[1])
        return self._step(
            "sample", work, variant.name, f"round {number}", condition=variant.condition, seed=seed,
            keys=(*MODEL, "score", "rlef"), inputs=tuple(filter(None, inputs)),
            outputs=(output / RANKED_FILE, output / SUMMARY_FILE), progress=output / "samples-1.json",
        )  # fmt: skip

    def train(self, variant: Variant, number: int = 0) -> Step:
        """Stage 1, a baseline, or stage 2; with a `number`, that round of stage 2."""
        recipe, paths, subject = self.recipe, self.paths, [variant.name]
        data, output = paths.training_data(variant), paths.model(variant)
        if number:
            data, output = paths.round_data(variant, number), paths.round_model(variant, number)
            subject.append(f"round {number}")
        ranked, seed = variant.condition in RANKED, recipe.evaluate.seed_of(variant)
        # The samples of a policy gradient are of this round alone, so it does not start from stage 1 again.
        start = self._policy_before(variant, number if recipe.rlef.policy_gradient else 1)

        def work() -> None:
            from trice.training.clone import clone
            from trice.training.rlef import rlef

            options: dict[str, Any] = {
                "template": prompt_template(recipe.format, recipe.template), "tasks": self.tasks,
                "seed": seed, "device": recipe.device, "dtype": recipe.dtype,
            }  # fmt: skip
            if (recipe.rlef if ranked else recipe.clone).eval_steps:
                options |= {"validation": self.paths.validation}
                options |= {"max_new_tokens": recipe.max_new_tokens}
                if number:
                    options |= {"reward": self._reward_of_rounds()}
            if ranked:
                rlef(data, output, recipe.model, start, settings=recipe.rlef.training, **options)
            else:
                clone(data, output, recipe.model, settings=recipe.clone, **options)

        return self._step(
            "train", work, *subject, condition=variant.condition, seed=seed,
            keys=(*TRAIN, "rlef" if ranked else "clone"), outputs=adapter_files(output), progress=output,
            inputs=(data, adapter_files(start)[1]) if start else (data,),
        )  # fmt: skip

    def generate(self, variant: Variant) -> Step:
        """A variant answers the test questions."""
        source, output = self.paths.tests, self.paths.response(variant)

        def work() -> None:
            spec = variant_model(self.recipe, variant, self.paths)
            generate(
                source, output, self.tasks, spec, origin=variant.name, retry=self.retry,
                auto_responses=self._without_tool_choice(variant, self.paths.response),
            )  # fmt: skip

        return self._evaluation_step(
            "generate", work, variant, source, keys=(*SPLIT, "evaluate.few_shot"), outputs=(output,),
            progress=output,
        )  # fmt: skip

    def evaluate(self, variant: Variant) -> Step:
        """The calls in these responses are executed, and the answers are judged."""
        recipe, source, output = self.recipe, self.paths.response(variant), self.paths.result(variant)

        def work() -> str:
            measures = evaluate(
                source, output, self.tasks, spec=variant_model(recipe, variant, self.paths),
                runner=runner(recipe.engine, recipe.workers), any_passage=recipe.evaluate.any_passage,
                auto_results=self._without_tool_choice(variant, self.paths.result),
            )  # fmt: skip
            return describe({"all": measures["total"]})

        return self._evaluation_step(
            "evaluate", work, variant, source, keys=(*SPLIT, "evaluate.any_passage"), outputs=(output,),
            progress=sidecar(output, "turned"),
        )  # fmt: skip

    @property
    def _calibrated(self) -> tuple[str, ...]:
        """The key on which the training questions depend, if some are held out for call thresholds."""
        return ("calibrate",) if self.recipe.calibrate.questions else ()

    def calibrate(self, variant: Variant) -> Step:
        """The call threshold of a variant is chosen on held-out questions."""
        source, folder = self.paths.calibration_questions, self.paths.both_answers(variant, "held-out")
        settings = self.recipe.calibrate

        def work() -> Calibration:
            spec = variant_model(self.recipe, variant, self.paths)
            return calibrate(source, folder, self.tasks, spec, settings.aim, settings.signal)

        return self._evaluation_step(
            "calibrate", work, variant, source, keys=(*MODEL, "calibrate"), outputs=(folder / CALIBRATION,),
            progress=folder / "called.json",
        )  # fmt: skip

    def answer_both_ways(self, variant: Variant) -> Step:
        """A variant answers the test questions with and without a call, which gives every threshold."""
        folder = self.paths.both_answers(variant, "test")

        def work() -> str:
            spec = decidable(variant_model(self.recipe, variant, self.paths))
            answered = answer_both_ways(self.paths.tests, folder, self.tasks, spec)
            saved = read_calibration(self.paths.both_answers(variant, "held-out"))
            write_decisions(folder / DECISIONS, answered, saved.threshold.probe if saved else None)
            return f"{len(answered.rows)} questions with and without a call"

        return self._evaluation_step(
            "calls", work, variant, self.paths.tests, keys=(*MODEL, "calibrate"), outputs=(folder / DECISIONS,),
            progress=folder / "called.json",
        )  # fmt: skip

    def _evaluation_step(
        self, kind: str, work: Callable[[], object], variant: Variant, source: Path, **fields: Any
    ) -> Step:
        model = self.recipe.evaluate.model_of(variant)
        if model:
            fields["seed"] = self.recipe.evaluate.seed_of(variant)
        inputs = (source, self.paths.weights(model)) if model else (source,)
        return self._step(kind, work, variant.name, condition=variant.condition, inputs=inputs, **fields)

    def _without_tool_choice(self, variant: Variant, path: Callable[[Variant], Path]) -> Path | None:
        """For a variant with a tool choice, a file of the same model without one, if it exists: responses that the
        tool choice does not change are copied from it."""
        model = self.recipe.evaluate.model_of(variant) if variant.condition in TOOL_CHOICES else None
        return path(model) if model and path(model).is_file() else None
