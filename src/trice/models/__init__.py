"""Models: prompts in, responses out; a local transformers model, or any OpenAI-compatible endpoint."""

from threading import RLock

LOADING = RLock()
"""Held while a model is loaded or converted. transformers sets state of the whole process meanwhile, such as the
default dtype and device, so that two threads that load at the same time break each other's models."""
