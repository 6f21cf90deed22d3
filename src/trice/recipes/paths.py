"""Where the files of a run are: the published layout, `data/<stage>/<task>/`, and one model folder per variant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trice.models.adapters import CONFIG, WEIGHTS
from trice.recipes.conditions import RANKED, Variant
from trice.training.on_policy import RANKED_FILE

CALLS = "calls"  # the folder of answers with and without a call


@dataclass(frozen=True)
class RunPaths:
    """The files of one task in the run's `folder`. With `per_task` each task has a folder of models.

    `reading` says that stage 1 also trains on second turns, so that its data are not the questions alone. `rounds` is
    the number of rounds of stage 2, 0 if it trains on collected candidates."""

    folder: Path
    task: str
    per_task: bool = False
    reading: bool = False
    rounds: int = 0

    def _data(self, stage: str, name: str) -> Path:
        return self.folder / "data" / stage / self.task / f"{name}.json"

    def train(self, dataset: str) -> Path:
        """The training questions of a data set."""
        return self._data("raw", dataset)

    def feedback(self, dataset: str) -> Path:
        """The questions of a data set for the rounds of stage 2."""
        return self._data("raw", f"{dataset}_feedback")

    def half(self, dataset: str, half: str) -> Path:
        """The training questions that the base model answered `right` or `wrong`."""
        return self._data("raw", f"{dataset}_{half}")

    def labels(self, dataset: str, half: str) -> Path:
        """The labels of one half."""
        return self._data("stage1", f"{dataset}_{half}")

    @property
    def labeled(self) -> Path:
        """The stage-1 data without second turns. Candidates are collected for its questions."""
        return self._data("stage1", "questions") if self.reading else self.mixed("stage-1")

    def mixed(self, condition: str) -> Path:
        """The stage-1 data of a condition."""
        return self._data("stage1", {"tool-0": "answers", "tool-100": "calls"}.get(condition, self.task))

    @property
    def candidates(self) -> Path:
        """The folder of the candidates, a file for each origin."""
        return self.folder / "data" / "stage2" / self.task

    @property
    def ranked(self) -> Path:
        """The ranked candidates."""
        return self._data("stage2", self.task)

    def training_data(self, variant: Variant) -> Path:
        """The file that a variant is trained on."""
        if variant.condition not in RANKED:
            return self.mixed(variant.condition)
        return self.round_data(variant, self.rounds) if self.rounds else self.ranked

    def round_data(self, variant: Variant, number: int) -> Path:
        """The file that a variant is trained on in a round."""
        return self.round(variant, number) / RANKED_FILE

    def round(self, variant: Variant, number: int) -> Path:
        """The folder of the responses that a variant learns from in a round."""
        return self.candidates / variant.name / f"round-{number}"

    def round_model(self, variant: Variant, number: int) -> Path:
        """The folder of the policy after a round; the last is the variant."""
        model = self.model(variant)
        return model if number == self.rounds else model.with_name(f"{model.name}.round{number}")

    @property
    def tests(self) -> Path:
        """The test questions."""
        return self._data("dev", self.task)

    @property
    def validation(self) -> Path:
        """The held-out questions that choose checkpoints."""
        return self._data("dev", f"{self.task}_validation")

    @property
    def calibration_questions(self) -> Path:
        """The held-out questions that call thresholds are chosen on."""
        return self._data("dev", f"{self.task}_calibration")

    def both_answers(self, variant: Variant, part: str) -> Path:
        """The folder of a variant's answers with and without a call: to the `held-out` or to the `test` questions."""
        return self.tests.parent / CALLS / variant.name / part

    def response(self, variant: Variant) -> Path:
        """A variant's responses to the test questions."""
        return self._data("dev", f"{self.task}_{variant.name}_response")

    def result(self, variant: Variant) -> Path:
        """The same responses, judged."""
        return self._data("dev", f"{self.task}_{variant.name}_result")

    def model(self, variant: Variant) -> Path:
        """The folder of a trained variant."""
        models = self.folder / "models"
        return (models / self.task if self.per_task else models) / variant.name

    def weights(self, variant: Variant) -> Path:
        """The adapter's weights in that folder."""
        return self.model(variant) / WEIGHTS[0]


def adapter_files(folder: Path) -> tuple[Path, Path]:
    """The files that make an adapter whole."""
    return folder / CONFIG, folder / WEIGHTS[0]
