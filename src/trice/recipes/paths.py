"""Where the files of a run are: the published layout, `data/<stage>/<task>/`, and one model folder per variant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trice.models.adapters import CONFIG, WEIGHTS
from trice.recipes.conditions import Variant
from trice.tools.executor import sidecar


@dataclass(frozen=True)
class RunPaths:
    """The files of one task in the run's `folder`. With `per_task` each task has a folder of models."""

    folder: Path
    task: str
    per_task: bool = False

    @property
    def raw(self) -> Path:
        return self._data("raw")

    @property
    def stage1(self) -> Path:
        return self._data("stage1")

    @property
    def stage2(self) -> Path:
        return self._data("stage2")

    @property
    def dev(self) -> Path:
        return self._data("dev")

    def _data(self, part: str) -> Path:
        return self.folder / "data" / part / self.task

    def train(self, dataset: str) -> Path:
        """The training questions of a data set."""
        return self.raw / f"{dataset}.json"

    def half(self, dataset: str, half: str) -> Path:
        """The training questions that the base model answered `right` or `wrong`."""
        return self.raw / f"{dataset}_{half}.json"

    def labels(self, dataset: str, half: str) -> Path:
        """The labels of one half."""
        return self.stage1 / f"{dataset}_{half}.json"

    def mixed(self, condition: str) -> Path:
        """The stage-1 data of a condition."""
        name = {"tool-0": "answers", "tool-100": "calls"}.get(condition, self.task)
        return self.stage1 / f"{name}.json"

    @property
    def ranked(self) -> Path:
        """The ranked candidates."""
        return self.stage2 / f"{self.task}.json"

    @property
    def tests(self) -> Path:
        """The test questions."""
        return self.dev / f"{self.task}.json"

    @property
    def validation(self) -> Path:
        """The held-out questions that choose checkpoints."""
        return self.dev / f"{self.task}_validation.json"

    def response(self, variant: Variant) -> Path:
        """A variant's responses to the test questions."""
        return self.dev / f"{self.task}_{variant.name}_response.json"

    def result(self, variant: Variant) -> Path:
        """The same responses, judged."""
        return self.dev / f"{self.task}_{variant.name}_result.json"

    def model(self, variant: Variant) -> Path:
        """The folder of a trained variant."""
        models = self.folder / "models"
        return (models / self.task if self.per_task else models) / variant.name

    def weights(self, variant: Variant) -> Path:
        """The adapter's weights in that folder."""
        return self.model(variant) / WEIGHTS[0]

    def adapter(self, variant: Variant) -> tuple[Path, Path]:
        """The files that make an adapter whole."""
        return self.model(variant) / CONFIG, self.weights(variant)


def second_turns(output: Path) -> Path:
    """The rows of the second turns while `output` is being made."""
    return sidecar(output, "turned")
