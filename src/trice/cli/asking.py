"""From the options of a command to what answers its questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trice.errors import InputError

if TYPE_CHECKING:
    from trice.models.endpoint import Endpoint
    from trice.stages.generate import Asking


def asking_of(
    model: str, adapter: Path | None, template: str, examples: str | None, compel: str | None,
    batch_size: int, device: str, dtype: str, engine: str, workers: int | None,
    client: Endpoint | None = None, **sampling: Any,
) -> Asking:  # fmt: skip
    from trice.sampling import Sampling
    from trice.stages.generate import Asking, load_compel

    return Asking(
        model,
        adapter,
        template,
        examples,
        load_compel(compel),
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
    from trice.given import open_endpoint
    from trice.recipe_parts import EndpointAt
    from trice.training.settings import override, parse

    value: dict[str, Any] = {"url": urls, "model": model, "keys_file": keys_file}
    for text in settings or ():
        override(value, text)
    if urls:
        return open_endpoint(parse(EndpointAt, value, "--endpoint-set"))
    if settings or keys_file:
        raise InputError("--endpoint-set and --keys-file go with --endpoint")
    return None
