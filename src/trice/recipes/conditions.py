"""The experimental conditions of a recipe, and the variants of the model that they train and evaluate.

`Variant` is the only place that writes and reads names such as `stage-1.seed2`.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, get_args

from pydantic import Field, model_validator

from trice.models.engine import ToolChoice
from trice.settings import Settings

Condition = Literal[
    "zero-shot", "few-shot", "tool-0", "tool-100", "stage-1", "stage-2-alone", "both", "never", "always"
]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
UNTRAINED: frozenset[str] = frozenset({"zero-shot", "few-shot"})
RANKED: frozenset[str] = frozenset({"stage-2-alone", "both"})  # trained on ranked candidates
REPEATED: frozenset[str] = frozenset({"stage-1", "both"})  # trained once for each seed
TOOL_CHOICES: dict[str, ToolChoice] = {"never": "none", "always": "required"}
DEFAULT: tuple[Condition, ...] = tuple(each for each in CONDITIONS if each not in TOOL_CHOICES)


class Variant(NamedTuple):
    """A condition with one training seed. The recipe's first seed is None here and has no suffix in file names."""

    condition: str
    seed: int | None = None

    @property
    def name(self) -> str:
        """The name of the variant's model folder and result files: `stage-1` or `stage-1.seed2`."""
        return self.condition if self.seed is None else f"{self.condition}.seed{self.seed}"

    @classmethod
    def parse(cls, name: str) -> Variant:
        """The variant that `name` was written for."""
        found = re.fullmatch(r"(.+)\.seed(\d+)", name)
        return cls(found[1], int(found[2])) if found else cls(name)


class Evaluation(Settings):
    """Which conditions are trained and evaluated."""

    conditions: list[Condition] = Field(list(DEFAULT), min_length=1)
    """what to train and evaluate, see below; a recipe with your own task leaves `few-shot` out by default, because
    it needs worked examples of that task"""
    seeds: list[int] = Field([0], min_length=1)
    """training seeds; each seed after the first trains and evaluates `stage-1` and `both` again, on the
    candidates of the first seed, or with `rlef.rounds` on its own samples"""
    few_shot: str = "mixed"
    """the worked examples of `few-shot`, as in `split`"""
    any_passage: bool = False
    """also ask the model over each passage alone, for the measure `any_passage`: a response counts as right if any
    of these answers is right, as the paper counts; each passage costs one more answer of the model"""

    @model_validator(mode="after")
    def _no_duplicates(self) -> Evaluation:
        for key, values in (("conditions", self.conditions), ("seeds", self.seeds)):
            for value in values:
                if values.count(value) > 1:  # type: ignore[arg-type]
                    raise ValueError(f"'{key}' holds {value!r} twice; remove one")
        return self

    def trained(self, *, rounds: bool = False) -> list[Variant]:
        """The variants to train, each after the one that it builds on. With `rounds`, `stage-2-alone` samples from the
        base model and needs no stage 1."""
        wanted = set(self.conditions)
        variants = []
        if wanted & REPEATED:
            variants += self._with_seeds("stage-1")
        elif wanted & TOOL_CHOICES.keys() or ("stage-2-alone" in wanted and not rounds):
            variants += [Variant("stage-1")]
        variants += [Variant(each) for each in ("tool-0", "tool-100", "stage-2-alone") if each in wanted]
        return variants + (self._with_seeds("both") if "both" in wanted else [])

    def evaluated(self) -> list[Variant]:
        """The variants to evaluate, in the order of the recipe."""
        return [variant for condition in self.conditions for variant in self._with_seeds(condition)]

    def _with_seeds(self, condition: Condition) -> list[Variant]:
        later = self.seeds[1:] if condition in REPEATED else []
        return [Variant(condition), *(Variant(condition, seed) for seed in later)]

    def seed_of(self, variant: Variant) -> int:
        """The training seed of a variant."""
        return self.seeds[0] if variant.seed is None else variant.seed

    def model_of(self, variant: Variant) -> Variant | None:
        """The trained variant that answers: with a tool choice the last stage; None for the base model."""
        if variant.condition in TOOL_CHOICES:
            return Variant("both" if "both" in self.conditions else "stage-1")
        return None if variant.condition in UNTRAINED else variant
