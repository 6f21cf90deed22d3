"""Teach a language model when and how to use tools, from the tools' own results.

    task = trice.Task("units", instruction="Answer; convert changes units.", tools=[convert], answers="numbers")
    model = trice.load("gemma-3-270m")
    known, unknown = trice.split(model, "train.jsonl", task)
    stage1 = trice.clone(model, known + trice.label(unknown, task), task)
    stage2 = trice.rlef(stage1, "train.jsonl", task)
    trice.evaluate({"base": model, "stage 1": stage1, "both": stage2}, "test.jsonl", task)

Names are imported when they are first used, so that `import trice` loads neither torch nor pydantic.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trice.api.calibration import calibrate
    from trice.api.data import questions
    from trice.api.evaluation import Evaluation
    from trice.api.models import Answer, Model, endpoint, load
    from trice.api.stages import Split, evaluate, generate, label, split
    from trice.api.training import clone, rlef, run
    from trice.errors import InputError, ToolError, ToolUnavailable, TriceError
    from trice.metrics import Difference, Share
    from trice.models.call_threshold import Calibration
    from trice.tasks.task import Task
    from trice.tools import Tool
    from trice.tools.function_tool import tool
    from trice.tools.mcp import mcp
    from trice.training import losses
    from trice.training.packed_forward import PackedForward
    from trice.training.trainer import TriceConfig, TriceTrainer
    from trice.types import Outcome, Question, Response

__version__ = "0.1.0"

_HOMES = {
    "trice.tools": ["Tool"],
    "trice.tools.function_tool": ["tool"],
    "trice.tools.mcp": ["mcp"],
    "trice.tasks.task": ["Task"],
    "trice.api.models": ["Answer", "Model", "endpoint", "load"],
    "trice.types": ["Outcome", "Question", "Response"],
    "trice.api.data": ["questions"],
    "trice.api.stages": ["Split", "evaluate", "generate", "label", "split"],
    "trice.api.training": ["clone", "rlef", "run"],
    "trice.training.trainer": ["TriceConfig", "TriceTrainer"],
    "trice.training.packed_forward": ["PackedForward"],
    "trice.api.calibration": ["calibrate"],
    "trice.models.call_threshold": ["Calibration"],
    "trice.api.evaluation": ["Evaluation"],
    "trice.metrics": ["Difference", "Share"],
    "trice.errors": ["InputError", "ToolError", "ToolUnavailable", "TriceError"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022  by subject
    # tools and tasks
    "Task", "Tool", "mcp", "tool",
    # models
    "Answer", "Model", "endpoint", "load",
    # data
    "Outcome", "Question", "Response", "questions",
    # stages
    "Split", "calibrate", "clone", "evaluate", "generate", "label", "rlef", "run", "split",
    # training in Python
    "PackedForward", "TriceConfig", "TriceTrainer", "losses",
    # results
    "Calibration", "Difference", "Evaluation", "Share",
    # errors
    "InputError", "ToolError", "ToolUnavailable", "TriceError",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "losses":  # a module
        return import_module("trice.training.losses")
    if name not in _HOME:
        raise AttributeError(f"module 'trice' has no attribute '{name}'")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
