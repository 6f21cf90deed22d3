"""From the options of a command to what answers its questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trice.errors import InputError
from trice.models.adapters import read_recorded

if TYPE_CHECKING:
    from trice.models.endpoint import Endpoint
    from trice.stages.generate import ModelSpec


class Meant(NamedTuple):
    """What a command works with."""

    model: str = "gemma-3-270m"
    task: str = "math"
    template: str = "plain"


def meant(
    adapter: Path | Sequence[Path] | None, model: str | None, task: str | None, template: str | None
) -> Meant:
    """Model, task and template of a command: its options, else what its adapter or adapters record, else the
    defaults.

    Raises InputError where several adapters record different models or tasks, or none of them its task."""
    adapters = [adapter] if isinstance(adapter, Path) else adapter or ()
    recorded = [read_recorded(each) for each in adapters]
    options = {"model": model, "task": task, "template": template}
    found = {name: value for name, value in options.items() if value is not None}
    for name in options.keys() - found.keys():
        told = list(dict.fromkeys(value for row in recorded if (value := getattr(row, name))))
        if len(told) > 1 and name != "template":  # a server asks each model in its own
            raise InputError(f"--{name}: the adapters record different ones ({', '.join(told)}); choose one")
        if recorded and not told and name == "task":
            raise InputError(f"--task: {adapters[0]} does not record its task; name it")
        if told:
            found[name] = told[0]
    return Meant(**found)


def model_spec_of(
    model: str, adapter: Path | None, template: str, few_shot: str | None, tool_choice: str,
    batch_size: int, device: str, dtype: str, engine: str, workers: int | None,
    client: Endpoint | None = None, **sampling: Any,
) -> ModelSpec:  # fmt: skip
    from trice.models.sampling import Sampling
    from trice.stages.generate import ModelSpec, load_tool_choice

    return ModelSpec(
        model,
        adapter,
        template,
        few_shot,
        load_tool_choice(tool_choice),
        Sampling(**sampling),
        batch_size,
        device,
        dtype,
        engine,
        workers,
        client,
    )


def endpoint_of(
    urls: list[str] | None, model: str, keys_file: Path | None, settings: list[str] | None
) -> Endpoint | None:
    """A client of the servers, None where there are none."""
    from trice.recipes.resolve import open_endpoint
    from trice.recipes.sections import EndpointAt
    from trice.training.settings import override, parse

    value: dict[str, Any] = {"url": urls, "model": model, "keys_file": keys_file}
    for text in settings or ():
        override(value, text)
    if urls:
        return open_endpoint(parse(EndpointAt, value, "--endpoint-set"))
    if settings or keys_file:
        raise InputError("--endpoint-set and --keys-file go with --endpoint")
    return None
