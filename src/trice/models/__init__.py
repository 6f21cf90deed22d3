"""Models: prompts in, responses out, from a local transformers model or any OpenAI-compatible endpoint."""

from threading import RLock

LOADING = RLock()
"""Held while a model is loaded or converted, because transformers then changes state of the whole process, such
as the default dtype and device. Two threads that load at the same time would break each other's models."""
