"""The plan of a run: its steps in order, and what each of them depends on.

`trice.recipes.pipeline` calls the stages, `trice.storage.run_store` skips finished steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from trice.recipes.conditions import RANKED, Variant
from trice.recipes.paths import second_turns
from trice.recipes.pipeline import HALVES, Pipeline
from trice.recipes.sections import Origin
from trice.stages.collect import GOLD
from trice.stages.label import reading_path
from trice.stages.split import answers_path
from trice.storage.run_store import RunStore, Step

# The settings that the files of a step depend on, by their names in `recipe.inputs`.
TASK = ("task", "judge", "per_task")
MODEL = (*TASK, "model", "template", "dtype", "engine", "max_new_tokens", "seed", "tools")
VALIDATION = ("validation", "checkpoints chosen by validation")
SPLIT = (*MODEL, "split")
LABEL = (*TASK, "tools", "label")
TRAIN = (*TASK, *VALIDATION, "model", "template", "dtype", "evaluate.first seed")


class Plan:
    """The steps of one pipeline. `store` says which of them are finished."""

    def __init__(self, pipeline: Pipeline, store: RunStore) -> None:
        self.pipeline, self.store = pipeline, store
        self.recipe, self.paths = pipeline.recipe, pipeline.paths

    def steps(self) -> Iterator[Step]:
        """The steps in order, finished ones too. Which steps follow may depend on the files of those before."""
        yield self._data()
        if self.recipe.trains:
            yield from map(self._split, self.pipeline.datasets)
            for dataset in self.pipeline.datasets:
                yield from self._label(dataset)
            yield self._mix()
        scored = False
        for variant in self.recipe.evaluate.trained():
            if variant.condition in RANKED and not scored:
                scored = True
                yield self._collect_gold()
                yield from map(self._collect, self.recipe.collect)
                yield self._score()
            yield self._train(variant)
        for variant in self.recipe.evaluate.evaluated():
            yield self._generate(variant)
            yield self._evaluate(variant)

    def _step(self, kind: str, work: Callable[[], object], *subject: str, **fields: Any) -> Step:
        name = " ".join((kind, *subject))
        task = self.paths.task if self.paths.per_task else None
        return Step(name=f"{task}: {name}" if task else name, kind=kind, work=work, **fields)

    def _data(self) -> Step:
        outputs = (*map(self.paths.train, self.pipeline.datasets), self.paths.tests)
        keys = (*TASK, *VALIDATION, "data", "files", "scale", "seed")
        return self._step("data", self.pipeline.data, keys=keys, outputs=outputs)

    def _split(self, dataset: str) -> Step:
        source = self.paths.train(dataset)
        outputs = tuple(self.paths.half(dataset, half) for half in HALVES)
        return self._step(
            "split", partial(self.pipeline.split, dataset), dataset, dataset=dataset, keys=SPLIT,
            inputs=(source,), outputs=outputs, progress=answers_path(source),
        )  # fmt: skip

    def _label(self, dataset: str) -> Iterator[Step]:
        split_finished = self.store.is_finished(self._split(dataset))
        for half in HALVES:
            source, output = self.paths.half(dataset, half), self.paths.labels(dataset, half)
            if source.is_file() or not split_finished:
                yield self._step(
                    "label", partial(self.pipeline.label, dataset, half), dataset, half, dataset=dataset,
                    keys=LABEL, inputs=(source,), outputs=(output,), progress=output,
                )  # fmt: skip

    def _mix(self) -> Step:
        datasets = self.pipeline.datasets
        labels = [self.paths.labels(dataset, half) for dataset in datasets for half in HALVES]
        questions = (*map(self.paths.train, datasets), *self.pipeline.halves())
        outputs = (self.pipeline.labelled, *map(self.paths.mixed, ("stage-1", "tool-0", "tool-100")))
        return self._step(
            "mix", self.pipeline.mix, keys=(*LABEL, "seed"),
            inputs=(*questions, *labels, *map(reading_path, labels)), outputs=tuple(dict.fromkeys(outputs)),
        )  # fmt: skip

    def _collect_gold(self) -> Step:
        return self._step(
            "collect", self.pipeline.collect_gold, GOLD, origin=GOLD, keys=TASK,
            inputs=(self.pipeline.labelled,), outputs=(self.pipeline.origin(GOLD),),
        )  # fmt: skip

    def _collect(self, origin: Origin) -> Step:
        inputs, output = [self.pipeline.labelled], self.pipeline.origin(origin.origin)
        if origin.source == "split":
            inputs += self.pipeline.halves()
        elif origin.source in ("early", "stage-1"):
            inputs += [self.paths.weights(Variant("stage-1"))]
        return self._step(
            "collect", partial(self.pipeline.collect, origin), origin.origin, origin=origin.origin,
            keys=(*MODEL, "collect"), inputs=tuple(inputs), outputs=(output,), progress=output,
        )  # fmt: skip

    def _score(self) -> Step:
        origins = [GOLD, *(origin.origin for origin in self.recipe.collect)]
        reader = [self.paths.weights(Variant("stage-1"))] if self.recipe.score.second_turn else []
        return self._step(
            "score", self.pipeline.score, keys=(*MODEL, "score"),
            inputs=(*map(self.pipeline.origin, origins), *reader), outputs=(self.paths.ranked,),
            progress=second_turns(self.paths.ranked),
        )  # fmt: skip

    def _train(self, variant: Variant) -> Step:
        ranked, both = variant.condition in RANKED, variant.condition == "both"
        stage1 = [self.paths.weights(Variant("stage-1", variant.seed))] if both else []
        return self._step(
            "train", partial(self.pipeline.train, variant), variant.name, condition=variant.condition,
            seed=self.recipe.evaluate.seed_of(variant), keys=(*TRAIN, "rlef" if ranked else "clone"),
            inputs=(self.pipeline.training_data(variant), *stage1), outputs=self.paths.adapter(variant),
            progress=self.paths.model(variant),
        )  # fmt: skip

    def _generate(self, variant: Variant) -> Step:
        output = self.paths.response(variant)
        return self._evaluation_step(
            "generate", partial(self.pipeline.generate, variant), variant, self.paths.tests,
            keys=(*SPLIT, "evaluate.few_shot"), outputs=(output,), progress=output,
        )  # fmt: skip

    def _evaluate(self, variant: Variant) -> Step:
        result = self.paths.result(variant)
        return self._evaluation_step(
            "evaluate", partial(self.pipeline.evaluate, variant), variant, self.paths.response(variant),
            keys=(*SPLIT, "evaluate.any_passage"), outputs=(result,), progress=second_turns(result),
        )  # fmt: skip

    def _evaluation_step(
        self, kind: str, work: Callable[[], object], variant: Variant, source: Path, **fields: Any
    ) -> Step:
        model = self.recipe.evaluate.model_of(variant)
        weights = [self.paths.weights(model)] if model else []
        seed = self.recipe.evaluate.seed_of(variant) if model else None
        return self._step(
            kind,
            work,
            variant.name,
            condition=variant.condition,
            seed=seed,
            inputs=(source, *weights),
            **fields,
        )
