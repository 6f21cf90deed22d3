"""How long the demo takes on this machine, from its speed in matrix products now and the recipe's amount of work.

The figures are those of Gemma 3 270M on the starter sets; there is no estimate for another model, a GPU, or stage 2 on
collected candidates.
"""

from __future__ import annotations

from trice.recipes.recipe import Recipe

# Operations in matrix products, in GFLOP, of one question on average over the four starter sets. They are fitted to
# the seconds of each step in a run of the demo at 53 GFLOP/s.
ANSWER = 13.0  # reading it and writing one response
SAMPLE = 4.0  # writing another response
SPLIT = 10.0  # the sampled answers of a question that the base model got right, over all questions
CLONE = 28.0  # an epoch of training, reading turns among the rows
TURN = 10.0  # reading what a tool returned, over all test questions
KEPT = 0.85  # of the training questions, those with a label
SOLVED = 0.7  # of the questions of a round, those with a target
UNSOLVED = 0.4  # of the questions of a round, those that get more samples
# Everything but products takes about as long on any processor.
OTHER = 3.4e-3  # seconds for each of those GFLOP
FIXED = 20.0  # imports, models, the index and the report
CONVERSION = 90.0  # of the model, once


def operations(recipe: Recipe) -> float:
    """GFLOP in matrix products that the demo's recipe asks for."""
    train = sum(entry.train or 0 for entry in recipe.data) * recipe.scale
    test = sum(entry.test or 0 for entry in recipe.data)
    total = train * (ANSWER + SPLIT + recipe.clone.num_train_epochs * CLONE)
    if recipe.ranked:
        total += recipe.rlef.rounds * _round(recipe, train)
    return total + test * len(recipe.evaluate.conditions) * (ANSWER + TURN)


def _round(recipe: Recipe, train: float) -> float:
    """GFLOP of one round of stage 2: its samples, and the training on targets and labels."""
    rlef, questions = recipe.rlef, sum(entry.feedback or 0 for entry in recipe.data) * recipe.scale

    def drawn(samples: int) -> float:
        return ANSWER + TURN + SAMPLE * (samples - 1) if samples else 0.0

    sampled = drawn(rlef.samples) + 2 * drawn(rlef.arms) + UNSOLVED * drawn(rlef.max_samples - rlef.samples)
    trained = SOLVED * questions + rlef.replay * KEPT * train
    return questions * sampled + rlef.num_train_epochs * CLONE * trained


def estimate(recipe: Recipe) -> str | None:
    """The demo's time on this machine in one line; None if it is not known."""
    from trice.models.cpu_dtype import rate
    from trice.models.embedded import GEMMA
    from trice.models.local import pick_device, resolve_dtype

    known = recipe.model == GEMMA.name and (recipe.rlef.rounds or not recipe.ranked)
    if not known or pick_device(recipe.device).type != "cpu":
        return None
    dtype = resolve_dtype(recipe.dtype, recipe.device)
    speed = rate(dtype) / 1e9
    work = operations(recipe)
    seconds = FIXED + work * OTHER + work / speed
    if not GEMMA.converted:
        seconds += CONVERSION
    return (
        f"about {max(1, round(seconds / 60))} minutes on this machine for the whole loop, if it stays as busy as "
        f"now ({speed:,.0f} GFLOP/s in {dtype})"
    )
