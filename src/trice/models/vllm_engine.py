"""vLLM in this process: token ids in, token ids out, with as many requests at a time as its memory holds.

Every response is a separate request with its own seed, so neither other requests nor an interruption change its
random numbers. vLLM's prefix cache computes common prefixes once. A response is checked as it grows and stopped as
soon as it is finished. A LoRA adapter is sent with each request and not merged. Beam search is not covered. The
installed build of vLLM decides which device is used. This module does not load vLLM when it is imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from trice.errors import InputError, error_line
from trice.models.adapters import adapter_config
from trice.models.engine import (
    SUPPRESSED,
    Deliver,
    Failure,
    Generated,
    GenerationSettings,
    Prompt,
    too_long,
    truncate_ids,
)
from trice.models.sampling import Sampling

MAX_WAITING = 1024  # requests that vLLM is given at a time; it runs as many of them at once as it can
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # adapter ranks for which vLLM can reserve memory


def check(sampling: Sampling) -> None:
    """Raise InputError if vLLM is missing or cannot sample in this way."""
    if importlib.util.find_spec("vllm") is None:
        raise InputError("engine 'vllm' needs vLLM: pip install 'trice-rlef[vllm]'")
    if sampling.beams > 1:
        raise InputError(
            f"engine 'vllm' does not support beam search (beams={sampling.beams}); use engine 'transformers'"
        )


def sampling_params(
    settings: GenerationSettings,
    prompt: Prompt,
    sample: int,
    suppressed: Sequence[int] = (),
    end: int | None = None,
) -> dict[str, Any]:
    """The arguments of vLLM's `SamplingParams` for one response."""
    sampling = settings.sampling
    digest = hashlib.sha256(f"{sampling.seed} {prompt.key} {sample}".encode()).digest()
    return {
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "repetition_penalty": sampling.repetition_penalty,
        "seed": int.from_bytes(digest[:6]),
        "logit_bias": dict.fromkeys(suppressed, SUPPRESSED) or None,
        "stop_token_ids": None if end is None else [end],  # in addition to the model's own
    }


class VllmEngine:
    """A model that vLLM runs, with or without a LoRA adapter.

    Raises:
        InputError: The model cannot be loaded, or the adapter has another base model or too high a rank.
    """

    def __init__(self, model: str, adapter: Path | None = None, *, dtype: str = "auto") -> None:
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        from vllm import EngineArgs, LLMEngine
        from vllm.lora.request import LoRARequest

        from trice.models.local import find_model, load_tokenizer

        lora: dict[str, Any] = {}
        self._lora: LoRARequest | None = None
        if adapter is not None:
            self._lora = LoRARequest(adapter.name, 1, str(adapter.resolve()))
            lora = {"enable_lora": True, "max_lora_rank": max_lora_rank(adapter, model)}
        source = find_model(model)
        self._tokenizer = load_tokenizer(model)
        arguments = EngineArgs(model=source, dtype=dtype, max_model_len=-1, disable_log_stats=True, **lora)
        try:
            self._vllm = LLMEngine.from_engine_args(arguments)
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"model '{model}': vLLM cannot load it ({error_line(error)})") from None

    def generate(
        self, prompts: Sequence[Prompt], settings: GenerationSettings, deliver: Deliver
    ) -> list[Failure]:
        """Answer every prompt. A prompt that is longer than the model's context fails."""
        failures: list[Failure] = []
        requests = self._requests(prompts, settings, failures)
        checked: dict[str, int] = {}  # characters of each response that `finish` has seen
        while True:
            for request in islice(requests, MAX_WAITING - self._vllm.get_num_unfinished_requests()):
                self._vllm.add_request(**request)
            if not self._vllm.has_unfinished_requests():
                return failures
            for output in self._vllm.step():
                generated = self._finished(output, settings, checked.pop(output.request_id, 0))
                if generated is None:
                    checked[output.request_id] = len(output.outputs[0].text)
                else:
                    number, sample = map(int, output.request_id.split(":"))
                    deliver(number, {sample: generated})

    def _requests(
        self, prompts: Sequence[Prompt], settings: GenerationSettings, failures: list[Failure]
    ) -> Iterator[dict[str, Any]]:
        """The request of every response, whose id is `prompt number:sample number`. Prompts that are too long are
        appended to `failures`."""
        from vllm import SamplingParams, TokensPrompt

        suppressed = settings.call_blocker(self._tokenizer).anywhere
        limit = self._vllm.model_config.max_model_len - 1
        end = settings.template.end(self._tokenizer)
        for number, prompt in enumerate(prompts):
            ids = settings.encode_prompt(self._tokenizer, prompt)
            if len(ids) > limit:
                failures.append(too_long(number, len(ids), limit))
                continue
            for sample in prompt.samples:
                parameters = sampling_params(settings, prompt, sample, suppressed, end)
                yield {
                    "request_id": f"{number}:{sample}",
                    "prompt": TokensPrompt(prompt_token_ids=ids),
                    "params": SamplingParams(**parameters),
                    "lora_request": self._lora,
                }

    def _finished(self, output: Any, settings: GenerationSettings, checked: int) -> Generated | None:
        """The response if it is finished, in which case vLLM stops generating it."""
        (partial,) = output.outputs
        if not output.finished and settings.finish(partial.text, checked) is None:
            return None
        ids = list(partial.token_ids)
        if partial.finish_reason == "stop":  # no stop strings are given, so it was an end token
            ids = ids[:-1]
        if not output.finished:
            self._vllm.abort_request([output.request_id])
        at_limit = partial.finish_reason == "length"
        generated = truncate_ids(self._tokenizer, ids, settings.finish, truncated=at_limit)
        return settings.drop_redundant_tokens(self._tokenizer, generated)


def max_lora_rank(adapter: Path, model: str) -> int:
    """The smallest rank that vLLM can reserve memory for and that is not below the adapter's."""
    rank = adapter_config(adapter, model).get("r", 8)
    fitting = next((each for each in RANKS if isinstance(rank, int) and rank <= each), None)
    if fitting is None:
        raise InputError(f"{adapter}: rank {rank} is too high; vLLM supports at most {RANKS[-1]}")
    return fitting
