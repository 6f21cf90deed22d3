"""Whether a question is answered with a call: its signal against the model's call threshold.

With tool choice `auto` and a threshold, a question whose signal exceeds it is answered as with tool choice `required`,
in the format `paper` with a call of the most probable tool, and any other question as with `none`. The decision is on
the first message alone: what follows a call is not decided, and neither are second turns over a tool's output. It needs
a local model with the engine `transformers`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from trice.errors import located_at
from trice.formats.prompt import CHAT, Template
from trice.models.call_threshold import CallThreshold
from trice.models.engine import Engine, GenerationSettings, Prompt
from trice.stages.chat_responses import offered_tools, prompt_messages
from trice.tasks import TaskLike
from trice.types import Question


class CallSignal(NamedTuple):
    """Of a question: P(call), the tool that is most probably called (None in the format `chat`, where the model names
    it after the opening), and the states after the asked layers."""

    probability: float
    tool: str | None
    states: list[list[float]]


def call_signals(
    engine: Engine,
    task: TaskLike,
    settings: GenerationSettings,
    questions: Mapping[int, Question],
    layers: Sequence[int] = (),
) -> dict[int, CallSignal]:
    """The signals of questions of one task, by their numbers. Questions without tools, and those whose prompts do not
    fit into the context, are left out."""
    from trice.models.call_signals import read_signals
    from trice.models.generation import TransformersEngine

    assert isinstance(engine, TransformersEngine)  # checked by `check_model_spec`
    loaded, names = engine.loaded, tuple(settings.parsers)
    prompts: dict[int, list[int]] = {}
    if settings.template.format == CHAT:
        chat, names = loaded.chat_format(**settings.template.chat_template_kwargs), ()
        openings = [chat.call_opening()] if questions else []
        for number, question in questions.items():
            if offered := offered_tools(question, task.tools):
                with located_at(question.where or question.id):
                    prompts[number] = chat.prompt(
                        prompt_messages(question, settings.examples, task.tools), offered
                    )
    else:
        openings = call_openings(settings.template, loaded.tokenizer, names)
        for number, question in questions.items() if names else ():
            prompt = Prompt("", question.instruction, question.input)
            prompts[number] = settings.encode_prompt(loaded.tokenizer, prompt)
    longest = max(map(len, openings), default=0)
    fitting = {number: ids for number, ids in prompts.items() if len(ids) + longest <= loaded.context}
    found = read_signals(loaded, list(fitting.values()), openings, layers, batch_size=engine.batch_size)
    return {
        number: to_signal(each, names, states)
        for number, each, states in zip(fitting, found.openings, found.states, strict=True)
    }


def call_openings(template: Template, tokenizer: Any, names: Iterable[str]) -> list[list[int]]:
    """The beginnings of calls in the format `paper`: the tokens of the tools' names."""
    return [template.encode_response(tokenizer, name, end=False) for name in names]


def to_signal(probabilities: Sequence[float], names: Sequence[str], states: list[list[float]]) -> CallSignal:
    """The signal of a question, from the probabilities of the openings and the names of their tools."""
    best = max(range(len(names)), key=lambda place: probabilities[place], default=None)
    return CallSignal(min(1.0, sum(probabilities)), None if best is None else names[best], states)


def decided(
    settings: GenerationSettings, threshold: CallThreshold, signal: CallSignal | None
) -> GenerationSettings:
    """The settings that a question is answered with. Without a signal there is no tool to call, or no room."""
    if signal is None or not threshold.calls(signal.probability, signal.states):
        return replace(settings, tool_choice="none")
    tools = settings.task_tools if signal.tool is None else (signal.tool,)
    return replace(settings, tool_choice="required", task_tools=tools)


def by_decision(
    engine: Engine,
    task: TaskLike,
    settings: GenerationSettings,
    threshold: CallThreshold | None,
    questions: Mapping[int, Question],
) -> Iterable[tuple[GenerationSettings, list[int]]]:
    """The numbers of questions by the settings that they are answered with."""
    if threshold is None or settings.tool_choice != "auto" or not questions:
        return [(settings, list(questions))]
    signals = call_signals(engine, task, settings, questions, threshold.layers)
    groups: dict[tuple[str, tuple[str, ...]], tuple[GenerationSettings, list[int]]] = {}
    for number in questions:
        chosen = decided(settings, threshold, signals.get(number))
        groups.setdefault((chosen.tool_choice, chosen.task_tools), (chosen, []))[1].append(number)
    return groups.values()
