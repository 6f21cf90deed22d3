"""Accuracy and calls of one model under each tool choice: `python examples/choice.py [MODEL]`."""

import sys

import trice

model = trice.load(sys.argv[1] if len(sys.argv) > 1 else "gemma-3-270m")
rows = [{"question": f"What is {n} * {n + 7}?", "answer": str(n * (n + 7))} for n in range(11, 19)]
for choice in ("auto", "none", "required"):
    result = trice.evaluate(model, rows, "math", tool_choice=choice, max_new_tokens=12)
    total = result.measures["model"]["total"]
    right, called = (100 * (total[name].value or 0) for name in ("accuracy", "tool_use"))
    print(f"{choice:8}  correct {right:3.0f}%  called {called:3.0f}%")
