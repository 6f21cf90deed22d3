"""Opening what a recipe names: questions, endpoints, licences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trice import datasets
from trice.recipes.recipe import Recipe
from trice.recipes.sections import DataSet, EndpointAt

if TYPE_CHECKING:
    from trice.models.endpoint import Endpoint


def load_data(recipe: Recipe, entry: DataSet) -> datasets.Split:
    """The questions of an entry of `data`. `scale` multiplies the training questions. In a mix each question names
    its task, and each says if the entry requires a tool. Raises InputError if they cannot be read."""
    train = entry.train and max(1, round(entry.train * recipe.scale))
    if entry.file:
        part = datasets.load_file(entry.dataset, entry.file, train=train, test=entry.test, seed=recipe.seed)
    elif entry.train_file and entry.test_file:
        part = datasets.load_files(
            entry.dataset, entry.train_file, entry.test_file, train=train, test=entry.test
        )
    else:
        part = datasets.load(entry.dataset, hub=entry.hub, train=train, test=entry.test)
    named = ({"task": entry.task} if recipe.task == "mix" else {}) | (
        {"tool": entry.tool} if entry.tool else {}
    )
    if not named:
        return part
    train_rows, test_rows = (
        [row.model_copy(update=named) for row in rows] for rows in (part.train, part.test)
    )
    return part._replace(train=train_rows, test=test_rows)


def licences(recipe: Recipe) -> dict[str, str]:
    """The licences of the recipe's data sets and model, as far as they are known."""
    from trice.models import gemma

    names = {entry.dataset for entry in recipe.data}
    found = {entry.name: entry.licence for entry in datasets.catalogue() if entry.name in names}
    return found | ({"Gemma 3 270M": gemma.LICENCE} if recipe.model == gemma.NAME else {})


def open_endpoint(at: EndpointAt) -> Endpoint:
    """A client of the endpoint. Raises InputError for missing keys, a URL that cannot be meant, a cost without
    prices."""
    from trice.models.api_keys import api_keys
    from trice.models.budget import Budget
    from trice.models.endpoint import Endpoint

    budget = Budget(at.max_requests, at.max_tokens, at.max_cost, at.prompt_price, at.completion_price)
    return Endpoint(
        at.url,
        at.model,
        api_keys(at.keys_file),
        at.timeout,
        budget=budget,
        api=at.api,
        tokenizer=at.tokenizer,
        send_temperature=at.send_temperature,
    )
