"""The experimental conditions that a recipe trains and evaluates, and the names of their files.

`Variant` is the only place that writes and reads names such as `stage-1.seed2`.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, get_args

from trice.models.engine import ToolChoice

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
