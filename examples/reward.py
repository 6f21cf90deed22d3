"""Stage 2 with a reward of your own, on gold answers alone: `python examples/reward.py [MODEL]`."""

import sys

import trice


def cheap_and_short(question: trice.Question, response: trice.Response) -> float:
    """1 for a correct response, a third less for a call, and a little less for every word."""
    called = response.outcome is trice.Outcome.CALLED
    return (1.0 if response.correct else 0.1) - called / 3 - len(response.response.split()) / 1000


model = trice.load(sys.argv[1] if len(sys.argv) > 1 else "gemma-3-270m")
rows = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(2, 10)]
policy = trice.rlef(
    model, rows, "math", samples=3, max_new_tokens=8, reward=cheap_and_short, num_train_epochs=1, batch_size=4
)
print(trice.evaluate({"before": model, "after": policy}, rows, "math", max_new_tokens=8))
