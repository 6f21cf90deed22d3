"""From the options of a command to the model that answers: defaults, model specification, endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trice.errors import InputError
from trice.formats.prompt import Template
from trice.models.adapters import AdapterRecord, adapter_record

if TYPE_CHECKING:
    from trice.cli.options import EngineOptions, LocalModelOptions, ModelOptions
    from trice.models.sampling import Sampling
    from trice.recipes.sections import EndpointAt
    from trice.settings import Settings
    from trice.stages.model_spec import ModelSpec
    from trice.tasks import Tasks


class Resolved(NamedTuple):
    """Model, task and template of a command, with the defaults filled in."""

    template: Template
    model: str = "gemma-3-270m"
    task: str = "math"


def resolve(
    model: str | None,
    task: str | None,
    format: str | None,
    template: str | None,
    adapters: Sequence[Path] = (),
) -> Resolved:
    """Model, task and template: as given, else as the adapters record them, else the defaults. The template is that of
    the first adapter.

    Raises InputError if the adapters record different models or tasks, if none records its task, or if format and
    template do not fit together."""
    recorded = [adapter_record(adapter) for adapter in adapters]
    given = {"model": model, "task": task}
    found = {name: value for name, value in given.items() if value is not None}
    for name in given.keys() - found.keys():
        values = list(dict.fromkeys(value for row in recorded if (value := getattr(row, name))))
        if len(values) > 1:
            raise InputError(f"--{name} is missing: the adapters record {', '.join(values)}; choose one")
        if recorded and not values and name == "task":
            raise InputError(f"--task is missing: {adapters[0]} does not record its task; name it")
        if values:
            found[name] = values[0]
    first = recorded[0] if recorded else AdapterRecord()
    return Resolved(first.prompt_template(format, template), **found)


def resolve_options(options: LocalModelOptions) -> Resolved:
    """Model, task and template of a command with one adapter or none."""
    adapters = [options.adapter] if options.adapter else []
    return resolve(options.model, options.task, options.format, options.template, adapters)


def model_tasks(options: ModelOptions) -> Tasks:
    """The task of a command with a model, and the sources of its tools."""
    from trice.tasks import Tasks

    return Tasks(resolve_options(options).task, options.tool)


def model_spec(options: ModelOptions, engine: EngineOptions, settings: dict[str, Any]) -> ModelSpec:
    """The model that answers. `settings` are few-shot examples, tool choice and the fields of `Sampling`.

    Raises InputError if the options name no model, or if an endpoint is given options of a local model."""
    from trice.models.sampling import Sampling
    from trice.stages.model_spec import ModelSpec

    if options.endpoint:
        refuse("to --endpoint, which runs the model itself", options, "adapter")
        refuse("to --endpoint, which runs the model itself", engine)
    elif not (options.model or options.adapter):
        raise InputError(
            "missing option --model; name a model, or an --adapter, which records its base model"
        )
    resolved = resolve_options(options)
    few_shot, tool_choice = settings.pop("few_shot", None), settings.pop("tool_choice", "auto")
    sampling = Sampling(**settings)
    _check_sampling(sampling, options.endpoint)
    return ModelSpec(
        options.endpoint.model if options.endpoint else resolved.model, options.adapter, resolved.template,
        few_shot, tool_choice, sampling,
        client=options.endpoint.open() if options.endpoint else None, batch_size=engine.generation_batch_size,
        **engine.model_dump(exclude={"generation_batch_size"}),
    )  # fmt: skip


def _check_sampling(sampling: Sampling, endpoint: EndpointAt | None) -> None:
    """Raise InputError for an option that has no effect at temperature 0. A server may draw different samples then,
    and it may have another temperature."""
    unused = sampling.without_effect
    if unused is None or (endpoint and (unused == "samples" or not endpoint.send_temperature)):
        return
    flag = f"--{unused.replace('_', '-')}"
    raise InputError(f"{flag} does not apply at temperature 0; set --temperature, or leave it out")


def refuse(reason: str, settings: Settings, *names: str) -> None:
    """Raise InputError if the user gave an option of `settings` that has no effect, one of `names` if given."""
    for name in names or type(settings).model_fields:
        if name in settings.model_fields_set:
            raise InputError(f"--{name.replace('_', '-')} does not apply {reason}; leave it out")
