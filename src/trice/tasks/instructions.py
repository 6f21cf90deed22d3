"""The instruction of the math task."""

from __future__ import annotations

# A constant of the format: the published checkpoints were trained on exactly this sentence.
INSTRUCTION = "Given a math problem, please answer it and you can use a calculator for help."
