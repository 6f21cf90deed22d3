"""Models: prompts in, responses out; a local transformers model, or any OpenAI-compatible endpoint."""
