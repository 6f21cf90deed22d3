"""Which model answers, and how it is asked: `ModelSpec`, its checks, and the engine that it opens.

The name of examples becomes an object here. Generation is `trice.stages.generate`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from trice import ray_cluster
from trice.errors import InputError
from trice.formats.prompt import CHAT, Example, Template, load_template
from trice.models import vllm_engine
from trice.models.adapters import adapter_weights
from trice.models.call_threshold import CallThreshold
from trice.models.engine import Engine, EngineName, ToolChoice, base_engine
from trice.models.sampling import Sampling
from trice.storage.files import digest

if TYPE_CHECKING:
    from trice.models.endpoint import Endpoint


def load_tool_choice(name: str) -> ToolChoice:
    """`name` as a tool choice. Raises InputError if it is not one."""
    if name not in get_args(ToolChoice):
        raise InputError(f"tool choice '{name}' is not valid; choose auto, none or required")
    return cast("ToolChoice", name)


@dataclass(frozen=True)
class ModelSpec:
    """A model and how it is asked. A local model has an `engine` (and a number of `workers` if that is a cluster), a
    remote one a `client`. `few_shot` are worked examples, or their name (`find_examples`). `opened` returns an engine
    that is loaded already. With tool choice `auto`, `call_threshold` decides whether a question is answered with a call
    (`trice.stages.call_decision`)."""

    model: str
    adapter: Path | None = None
    template: Template = field(default_factory=load_template)
    few_shot: str | tuple[Example, ...] | None = None
    tool_choice: ToolChoice = "auto"
    sampling: Sampling = field(default_factory=Sampling)
    batch_size: int = 128
    device: str = "auto"
    dtype: str = "auto"
    engine: str = "transformers"
    workers: int | None = None
    client: Endpoint | None = None
    opened: Callable[[], Engine] | None = field(default=None, compare=False, repr=False)
    call_threshold: CallThreshold | None = None

    @property
    def prompt_template(self) -> Template:
        """The template of the prompts. A chat endpoint applies the model's own."""
        return load_template(CHAT) if self.chats and self.template.name != CHAT else self.template

    @property
    def chats(self) -> bool:
        """Whether questions go to a chat endpoint, where a response cannot be prefilled."""
        return self.client is not None and self.client.api == "chat"

    def settings(self) -> dict[str, Any]:
        """Everything that responses depend on, except for the examples. Speed and placement are not in it."""
        template = self.prompt_template
        written = {"format": template.source} if template.format == CHAT else {"template": template.name}
        if self.client is not None:
            return {
                "model": self.client.model,
                "endpoint": self.client.url,
                "api": self.client.api,
                "tokenizer": self.client.tokenizer,
                **({} if self.client.send_temperature else {"send_temperature": False}),
                **written,
                "tool_choice": self.tool_choice,
                "sampling": asdict(self.sampling),
            }
        from trice.models.local import resolve_dtype

        applies = self.call_threshold if self.tool_choice == "auto" else None
        decision = {"call_threshold": applies.settings()} if applies else {}
        return {
            "model": self.model,
            "adapter": self.adapter and digest(adapter_weights(self.adapter)),
            **written,
            "tool_choice": self.tool_choice,
            **decision,
            "sampling": asdict(self.sampling),
            "dtype": resolve_dtype(self.dtype, self.device),
            "engine": base_engine(self.engine),
        }


def check_model_spec(spec: ModelSpec) -> None:
    """Raise InputError for a model, adapter or engine that cannot be opened, before anything is loaded."""
    chat = spec.template.format == CHAT
    if spec.call_threshold is not None and (spec.client is not None or spec.engine != "transformers"):
        where = f"engine '{spec.engine}'" if spec.client is None else "an endpoint"
        raise InputError(
            f"a call threshold needs P(call), which {where} does not give; use a local model with engine "
            "'transformers', or turn the threshold off with --call-threshold off"
        )
    if chat and spec.client is not None and not spec.chats:
        raise InputError(
            "format 'chat' needs an endpoint with api 'chat', where the server writes the prompt"
        )
    if chat and base_engine(spec.engine) == "vllm":
        raise InputError(
            "format 'chat' does not support engine 'vllm'; start vLLM's server with the merged model and use it as an "
            "endpoint (docs/how-to/tool-calls.md)"
        )
    if chat and spec.sampling.beams > 1:
        raise InputError("format 'chat' does not support beam search; leave beams out")
    if spec.client is not None:
        if spec.adapter:
            raise InputError(
                "an adapter is for a local model; for an endpoint, name the adapter with --model"
            )
        if spec.engine != "transformers":
            raise InputError(f"engine '{spec.engine}' is for a local model; leave it out for an endpoint")
        return
    from trice.models.local import check_model

    check_engine(spec.engine, spec.sampling)
    check_model(spec.model, spec.adapter)


def check_engine(name: str, sampling: Sampling) -> None:
    """Raise InputError for an unknown engine, one whose packages are missing, and one that cannot sample so."""
    if name not in get_args(EngineName):
        raise InputError(f"engine '{name}' is not valid; choose {', '.join(get_args(EngineName))}")
    if name.startswith("ray"):
        ray_cluster.check()
    if base_engine(name) == "vllm":
        vllm_engine.check(sampling)


def open_engine(spec: ModelSpec) -> Engine:
    """The engine of a model, loaded."""
    if spec.opened is not None:
        return spec.opened()
    if spec.client is not None:
        from trice.models.endpoint_engine import EndpointEngine

        return EndpointEngine(spec.client)
    from trice.models.local import load, resolve_dtype

    dtype = resolve_dtype(spec.dtype, spec.device)
    if spec.engine.startswith("ray"):
        from trice.models.ray_engine import RayEngine

        # All workers use the dtype of this machine, so that the output is that of one process.
        worker_spec = replace(spec, engine=base_engine(spec.engine), dtype=dtype)
        return RayEngine(partial(open_engine, worker_spec), spec.workers)
    if spec.engine == "vllm":
        return vllm_engine.VllmEngine(spec.model, spec.adapter, dtype=dtype)
    from trice.models.generation import TransformersEngine

    loaded = load(spec.model, spec.adapter, device=spec.device, dtype=dtype)
    return TransformersEngine(loaded, spec.batch_size)
