"""Ask a model one question with a calculator at hand: `python examples/ask.py [MODEL]`."""

import sys

import trice

model = trice.load(sys.argv[1] if len(sys.argv) > 1 else "gemma-3-270m")
answer = model.ask("A crate holds 24 bottles. How many bottles are in 17 crates?", "math", few_shot="calls")

print("final answer:", answer)
print("outcome:     ", answer.outcome)
print("call:        ", answer.call)
print("execution:   ", answer.execution)
