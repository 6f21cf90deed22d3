"""Serve: an OpenAI-compatible endpoint that runs models, executes their calls and returns the final answer."""
