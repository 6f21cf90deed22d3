"""The steps of a run: what each setting needs, in order, every one the stage of its name.

A finished step is skipped, an interrupted one goes on where it was: `trice.storage.steps` and the stages see to that.
Nothing here checks a recipe or claims a folder: that is `trice.recipes.runner`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trice import datasets
from trice.models.adapters import CONFIG, WEIGHTS
from trice.recipes.recipe import Recipe
from trice.recipes.resolve import load_data, open_endpoint
from trice.recipes.sections import TOOL_CHOICES, Origin
from trice.recipes.status import to_retry
from trice.rewards import load_reward
from trice.stages.collect import GOLD, collect, collect_gold, collect_split, origin_path
from trice.stages.evaluate import describe, evaluate
from trice.stages.generate import ModelSpec, ask, generate
from trice.stages.label import label, reading_path
from trice.stages.mix import mix
from trice.stages.prepare_data import raw_row
from trice.stages.score import score
from trice.stages.split import answers_path, split
from trice.storage.files import write_rows
from trice.storage.steps import Step, Steps
from trice.tasks import Tasks
from trice.tools.executor import sidecar
from trice.tools.ray_executor import runner
from trice.types import Question

if TYPE_CHECKING:
    from trice.stages.teachers import Teacher


def _filled(paths: Iterable[Path]) -> list[Path]:
    """The files with rows: a model can be right on nothing, and a teacher's labels can all be rejected."""
    return [path for path in paths if path.is_file() and path.stat().st_size]


class Loop:
    """One run: where its files are, and the steps in order. `apart` is for one of several tasks in the same folder,
    each with models of its own. `retry` asks for failed rows again."""

    def __init__(self, recipe: Recipe, folder: Path, *, apart: bool = False, retry: bool = False) -> None:
        from trice.models import gemma

        self.recipe, self.folder, self.retry = recipe, folder, retry
        self.tasks = Tasks(recipe.tasks, recipe.tools)
        self.models = folder / "models" / (self.tasks.name if apart else "")
        self.prefix = f"{self.tasks.name}: " if apart else ""
        self.names = [entry.dataset for entry in recipe.data if entry.train != 0]
        self.raw, self.stage1, self.stage2, self.dev = (
            folder / "data" / part / self.tasks.name for part in ("raw", "stage1", "stage2", "dev")
        )
        known = {entry.dataset for entry in recipe.data}
        self.licences = {entry.name: entry.licence for entry in datasets.catalogue() if entry.name in known}
        if recipe.model == gemma.NAME:
            self.licences["Gemma 3 270M"] = gemma.LICENCE
        about = {
            "name": recipe.name,
            "title": recipe.title,
            "model": recipe.model,
            "seed": recipe.seed,
            "licences": self.licences,
        }
        self.steps = Steps(folder, about)

    def run(self) -> None:
        if self.retry:
            self.steps.undo(to_retry(list(self.plan()), self.steps, self.prefix))
        for step in self.plan():
            self.steps.do(step)
        self._report()

    def plan(self) -> Iterator[Step]:
        """The steps in order, finished ones too. Which come next may depend on the files of those before."""
        data = [*(self.raw / f"{name}.json" for name in self.names), self._tests]
        yield self._step("data", self._data, makes=data)
        if self.recipe.trains:
            yield from self._prepare()
        ranked = False
        for setting, seed in self._trained():
            if setting in ("stage-2", "both") and not ranked:
                ranked = True
                yield from self._candidates()
            name = self._name(setting, seed)
            model = self._model(name)
            made = [model / CONFIG, model / WEIGHTS[0]]
            yield self._step(f"train {name}", self._train, setting, seed, output=model, makes=made)
        for name in self._evaluated():
            response, result = (self._tested(name, part) for part in ("response", "result"))
            yield self._step(f"generate {name}", self._generate, name, output=response, makes=[response])
            turned = sidecar(result, "turned")
            yield self._step(f"evaluate {name}", self._evaluate, name, output=turned, makes=[result])

    def _step(
        self,
        name: str,
        work: Callable[..., object],
        *args: Any,
        output: Path | None = None,
        makes: Sequence[Path] = (),
    ) -> Step:
        return Step(self.prefix + name, work, args, output, tuple(makes))

    # Data, split, label, mix

    def _data(self) -> str:
        tests: list[Question] = []
        held: list[Question] = []
        counts = []
        held_out = self.recipe.validation
        for entry in self.recipe.data:
            part = load_data(self.recipe, entry)
            train, test = part.train, part.test
            if held_out and train:
                train, validation = part.train[:-held_out], part.train[-held_out:]
                held += [ask(question, self.tasks.of(question)) for question in validation]
                test = part.test if self.recipe.validates else validation
            if train:
                write_rows(self.raw / f"{entry.dataset}.json", map(raw_row, train))
            tests += [ask(question, self.tasks.of(question)) for question in test]
            counts.append(f"{entry.dataset} {len(train)} + {len(test)}")
        write_rows(self._tests, tests)
        if self.recipe.validates:
            write_rows(self._held_out, held)
        return "questions to train + test: " + ", ".join(counts)

    @property
    def _tests(self) -> Path:
        return self.dev / f"{self.tasks.name}.json"

    @property
    def _held_out(self) -> Path:
        return self.dev / f"{self.tasks.name}_validation.json"

    def _prepare(self) -> Iterator[Step]:
        recipe = self.recipe
        most = recipe.split.max_new_tokens or recipe.max_new_tokens
        direct = self._withheld(sampling=recipe.sampling(max_new_tokens=most))
        for name in self.names:
            source = self.raw / f"{name}.json"
            halves = [self.raw / f"{name}_{half}.json" for half in ("wrong", "right")]
            answers = answers_path(source)
            yield self._step(f"split {name}", self._split, source, direct, output=answers, makes=halves)
        for name in self.names:
            for half in ("wrong", "right"):
                source = self.raw / f"{name}_{half}.json"
                if source.is_file() or not self.steps.find(f"{self.prefix}split {name}"):
                    output = self.stage1 / source.name
                    label = f"label {name} {half}"
                    yield self._step(label, self._label, source, output, output=output, makes=[output])
        mixed = dict.fromkeys((self._asked, *map(self._mixed, ("stage-1", "tool-0", "tool-100"))))
        yield self._step("mix", self._mix, makes=list(mixed))

    def _split(self, source: Path, direct: ModelSpec) -> object:
        chosen = self.recipe.split
        return split(
            source, self.recipe.tasks, direct, samples=chosen.samples, temperature=chosen.temperature,
            known=chosen.known, tools=self.recipe.tools, retry=self.retry,
        )  # fmt: skip

    def _withheld(self, **changes: Any) -> ModelSpec:
        """How the base model is asked with tools withheld: what it gets wrong needs a tool, in training questions
        (`split`) and in test questions (`zero-shot`)."""
        return self._model_spec(few_shot=self.recipe.split.few_shot, tool_choice="none", **changes)

    def _label(self, source: Path, output: Path) -> object:
        recipe = self.recipe
        return label(
            source, output, recipe.tasks, self._teacher(), reading=recipe.label.reading, tools=recipe.tools,
            retry=self.retry,
        )  # fmt: skip

    def _teacher(self) -> Teacher:
        from trice.stages.teachers import load_teacher

        chosen = self.recipe.label
        client = open_endpoint(chosen.endpoint) if chosen.endpoint else None
        return load_teacher(chosen.teacher, self.recipe.tasks, client, chosen.retries, chosen.prompt)

    def _mix(self) -> None:
        """The stage-1 data of every trained setting: stage-1 itself, and the 0% and 100% tool baselines."""
        task, seed = self.recipe.tasks, self.recipe.seed
        wrong = _filled(self.stage1 / f"{name}_wrong.json" for name in self.names)
        right = _filled(self.stage1 / f"{name}_right.json" for name in self.names)
        known = _filled(self.raw / f"{name}_right.json" for name in self.names)
        questions = [self.raw / f"{name}.json" for name in self.names]
        mix(wrong, self._asked, task, right=known, seed=seed)
        mix([], self._mixed("tool-0"), task, kind="answers", questions=questions, seed=seed)
        if self.recipe.label.reading:
            wrong += _filled(map(reading_path, wrong))
            right += _filled(map(reading_path, right))
            mix(wrong, self._mixed("stage-1"), task, right=known, seed=seed)
        if wrong or right:
            mix([*wrong, *right], self._mixed("tool-100"), task, kind="calls", seed=seed)

    @property
    def _asked(self) -> Path:
        """The stage-1 data without second turns, whose questions candidates are collected for."""
        return self.stage1 / "questions.json" if self.recipe.label.reading else self._mixed("stage-1")

    def _mixed(self, setting: str) -> Path:
        return self.stage1 / {"tool-0": "answers.json", "tool-100": "calls.json"}.get(
            setting, f"{self.tasks.name}.json"
        )

    # Training

    def _trained(self) -> Iterator[tuple[str, int]]:
        """Settings to train, with seeds, each after what it builds on."""
        wanted = set(self.recipe.evaluate.settings)
        seeds = self.recipe.evaluate.seeds
        if wanted & {"stage-1", "stage-2", "both", *TOOL_CHOICES}:
            yield from (("stage-1", seed) for seed in (seeds if wanted & {"stage-1", "both"} else seeds[:1]))
        for setting in ("tool-0", "tool-100", "stage-2"):
            if setting in wanted:
                yield setting, seeds[0]
        if "both" in wanted:
            yield from (("both", seed) for seed in seeds)

    def _name(self, setting: str, seed: int) -> str:
        return setting if seed == self.recipe.evaluate.seeds[0] else f"{setting}.seed{seed}"

    def _model(self, name: str) -> Path:
        return self.models / name

    def _train(self, setting: str, seed: int) -> None:
        from trice.training.clone import clone
        from trice.training.rlef import rlef

        recipe, output, data = self.recipe, self._model(self._name(setting, seed)), self._trained_on(setting)
        how: dict[str, Any] = {
            "template": recipe.template,
            "seed": seed,
            "device": recipe.device,
            "dtype": recipe.dtype,
            "task": recipe.tasks,
        }
        ranks = setting in ("stage-2", "both")
        if (recipe.rlef if ranks else recipe.clone).validate_every:
            how |= {"validation": self._held_out, "tools": recipe.tools}
            how |= {"max_new_tokens": recipe.max_new_tokens}
        if ranks:
            adapter = self._model(self._name("stage-1", seed)) if setting == "both" else None
            rlef(data, output, recipe.model, adapter, settings=recipe.rlef, **how)
        else:
            clone(data, output, recipe.model, settings=recipe.clone, **how)

    def _trained_on(self, setting: str) -> Path:
        return self._ranked if setting in ("stage-2", "both") else self._mixed(setting)

    # Candidates

    @property
    def _ranked(self) -> Path:
        return self.stage2 / f"{self.tasks.name}.json"

    def _candidates(self) -> Iterator[Step]:
        task, data = self.recipe.tasks, self._asked
        gold = [origin_path(self.stage2, task, GOLD)]
        yield self._step("collect gold", collect_gold, data, self.stage2, task, makes=gold)
        for origin in self.recipe.collect:
            output = origin_path(self.stage2, task, origin.origin)
            name = f"collect {origin.origin}"
            yield self._step(name, self._collect, data, origin, output=output, makes=[output])
        turned = sidecar(self._ranked, "turned")
        yield self._step("score", self._score, output=turned, makes=[self._ranked])

    def _collect(self, data: Path, origin: Origin) -> None:
        recipe = self.recipe
        if origin.source == "split":
            halves = (self.raw / f"{name}_{half}.json" for name in self.names for half in ("wrong", "right"))
            collect_split(data, _filled(halves), self.stage2, recipe.tasks, origin.origin)
            return
        sampling = recipe.sampling(
            samples=origin.samples, temperature=origin.temperature, top_k=origin.top_k, top_p=origin.top_p,
            repetition_penalty=origin.repetition_penalty, beams=origin.beams,
        )  # fmt: skip
        spec = self._model_spec(
            few_shot=origin.few_shot, tool_choice=origin.tool_choice, sampling=sampling, **self._who(origin)
        )
        collect(data, self.stage2, recipe.tasks, origin.origin, spec, tools=recipe.tools, retry=self.retry)

    def _who(self, origin: Origin) -> dict[str, Any]:
        """The model an origin means, with its adapter and template, or its endpoint."""
        if origin.endpoint is not None:
            return {"model": origin.endpoint.model, "client": open_endpoint(origin.endpoint)}
        if origin.source != "model":
            return {"adapter": self._checkpoint(origin.source)}
        return {
            "model": origin.model,
            "adapter": origin.adapter,
            "template": origin.template or self.recipe.template,
        }

    def _checkpoint(self, source: str) -> Path | None:
        """The stage-1 adapter an origin means; `early` is its first checkpoint."""
        stage1 = self._model("stage-1")
        if source == "early":
            steps = sorted(stage1.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
            return steps[0] if steps else stage1
        return stage1 if source == "stage-1" else None

    def _score(self) -> str:
        recipe, chosen = self.recipe, self.recipe.score
        reader = self._model_spec(adapter=self._model("stage-1")) if chosen.second_turn else None
        rows = score(
            self.stage2, self._ranked, recipe.tasks, reward=load_reward(chosen.reward), distinct=chosen.distinct,
            spec=reader, tools=recipe.tools, runner=runner(recipe.engine, recipe.workers),
        )  # fmt: skip
        count = sum(len(row.candidates) for row in rows)
        return f"{count} candidates of {len(rows)} questions, {count / len(rows):.1f} each"

    # Evaluation

    def _evaluated(self) -> list[str]:
        seeds = self.recipe.evaluate.seeds
        return [
            self._name(setting, seed)
            for setting in self.recipe.evaluate.settings
            for seed in (seeds if setting in ("stage-1", "both") else seeds[:1])
        ]

    def _generate(self, name: str) -> None:
        recipe = self.recipe
        output = self._tested(name, "response")
        generate(
            self._tests, output, recipe.tasks, self._tester(name), origin=name, tools=recipe.tools,
            retry=self.retry, free=self._free(name, "response"),
        )  # fmt: skip

    def _evaluate(self, name: str) -> str:
        recipe, responses = self.recipe, self._tested(name, "response")
        measures = evaluate(
            responses,
            self._tested(name, "result"),
            recipe.tasks,
            spec=self._tester(name),
            tools=recipe.tools,
            runner=runner(recipe.engine, recipe.workers),
            any_passage=recipe.evaluate.any_passage,
            turned=self._free(name, "result"),
        )
        return describe({"all": measures["total"]})

    def _free(self, name: str, part: str) -> Path | None:
        """For a setting with a tool choice, the file of the same model without one, if it is there already."""
        path = self._tested(self._last(name), part) if name in TOOL_CHOICES else None
        return path if path and path.is_file() else None

    def _tested(self, name: str, part: str) -> Path:
        return self.dev / f"{self.tasks.name}_{name}_{part}.json"

    def _tester(self, name: str) -> ModelSpec:
        """How a setting's model is asked the test questions."""
        if name == "zero-shot":
            return self._withheld()
        few_shot = self.recipe.evaluate.few_shot if name == "few-shot" else None
        adapter = None if name == "few-shot" else self._model(self._last(name))
        return self._model_spec(
            adapter=adapter, few_shot=few_shot, tool_choice=TOOL_CHOICES.get(name, "auto")
        )

    def _last(self, name: str) -> str:
        """The model a setting is evaluated with: its own, or that of the last stage there is."""
        if name not in TOOL_CHOICES:
            return name
        return "both" if "both" in self.recipe.evaluate.settings else "stage-1"

    def _model_spec(self, **changes: Any) -> ModelSpec:
        recipe = self.recipe
        fields: dict[str, Any] = {
            "model": recipe.model,
            "template": recipe.template,
            "sampling": recipe.sampling(),
            "batch_size": recipe.batch_size,
            "device": recipe.device,
            "dtype": recipe.dtype,
            "engine": recipe.engine,
            "workers": recipe.workers,
        }
        return ModelSpec(**(fields | changes))

    def _report(self) -> None:
        from trice.report import measured, write_report
        from trice.training.model_card import write_card

        write_report([self.folder])
        measures = measured(self.folder, {entry.dataset for entry in self.recipe.data})
        for setting, seed in self._trained():
            name = self._name(setting, seed)
            write_card(
                self._model(name), self._trained_on(setting), measures.get(name),
                licences=self.licences, task=self.recipe.tasks,
            )  # fmt: skip
