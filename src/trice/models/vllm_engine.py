"""vLLM in this process: token ids in, token ids out, as many requests at a time as its memory holds.

Every response is a request of its own with a seed of its own, so that neither its neighbours nor a kill change
what it is drawn with; what prompts have in common is computed once, by vLLM's prefix cache. A response is watched
as it grows and stopped where it is over. A LoRA adapter goes with each request and is not merged. Does not cover
beams, or where vLLM runs: that is decided by the build that is installed. Importing this loads no vLLM.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from trice.errors import InputError
from trice.formats.prompt import decode
from trice.models.adapters import adapter_config
from trice.models.engine import Done, Failure, Manner, Prompt, Written, reach, too_long
from trice.models.sampling import Sampling

WAITING = 1024  # requests that vLLM is given at a time; it runs as many of them at once as it can
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # of adapters that vLLM makes room for
NEVER = -100.0  # added to the logit of a token that may not be chosen: as low as vLLM takes


def check(sampling: Sampling) -> None:
    """Raise InputError where vLLM is missing, and for what it does not do."""
    if importlib.util.find_spec("vllm") is None:
        raise InputError("engine 'vllm' needs vLLM: pip install 'trice-rlef[vllm]'")
    if sampling.beams > 1:
        raise InputError(f"engine 'vllm': knows no beams ({sampling.beams}); take engine 'transformers'")


def settings(
    manner: Manner, prompt: Prompt, sample: int, barred: Sequence[int] = (), end: int | None = None
) -> dict[str, Any]:
    """What vLLM's `SamplingParams` are for one response; the tokens `barred` may not be chosen."""
    drawn = manner.sampling
    told = hashlib.sha256(f"{drawn.seed} {prompt.key} {sample}".encode()).digest()
    return {
        "max_tokens": drawn.max_new_tokens,
        "temperature": drawn.temperature,
        "top_k": drawn.top_k,
        "top_p": drawn.top_p,
        "repetition_penalty": drawn.repetition_penalty,
        "seed": int.from_bytes(told[:6]),
        "logprobs": 0 if drawn.logprobs else None,  # of the chosen tokens alone, at temperature 1
        "logit_bias": dict.fromkeys(barred, NEVER) or None,
        "stop_token_ids": None if end is None else [end],  # besides the model's own
    }


class VllmEngine:
    """A model, with or without a LoRA adapter, that vLLM runs. Raises InputError for one that cannot be loaded, and
    for an adapter of another base or of too high a rank."""

    def __init__(self, model: str, adapter: Path | None = None, *, dtype: str = "auto") -> None:
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        from transformers import AutoTokenizer
        from vllm import EngineArgs, LLMEngine
        from vllm.lora.request import LoRARequest

        from trice.models.local import find_model

        lora: dict[str, Any] = {}
        self._lora: LoRARequest | None = None
        if adapter is not None:
            self._lora = LoRARequest(adapter.name, 1, str(adapter.resolve()))
            lora = {"enable_lora": True, "max_lora_rank": room(adapter, model)}
        source = find_model(model)
        self._tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        arguments = EngineArgs(model=source, dtype=dtype, max_model_len=-1, disable_log_stats=True, **lora)
        try:
            self._vllm = LLMEngine.from_engine_args(arguments)
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"model '{model}': vLLM cannot load it ({_line(error)})") from None

    def write(self, prompts: Sequence[Prompt], manner: Manner, done: Done) -> list[Failure]:
        """Answer every prompt; one that is longer than the model reads fails."""
        failures: list[Failure] = []
        requests = self._requests(prompts, manner, failures)
        seen: dict[str, int] = {}  # characters of each response that were looked at
        while True:
            for request in islice(requests, WAITING - self._vllm.get_num_unfinished_requests()):
                self._vllm.add_request(**request)
            if not self._vllm.has_unfinished_requests():
                return failures
            for output in self._vllm.step():
                written = self._whole(output, manner, seen.pop(output.request_id, 0))
                if written is None:
                    seen[output.request_id] = len(output.outputs[0].text)
                else:
                    number, sample = map(int, output.request_id.split(":"))
                    done(number, {sample: written})

    def _requests(
        self, prompts: Sequence[Prompt], manner: Manner, failures: list[Failure]
    ) -> Iterator[dict[str, Any]]:
        """Every response's request, called after the numbers of its prompt and its own; prompts that are too long
        go to `failures`."""
        from vllm import SamplingParams, TokensPrompt

        barred, longest = manner.bar(self._tokenizer).anywhere, self._vllm.model_config.max_model_len - 1
        end = manner.template.end(self._tokenizer)
        for number, prompt in enumerate(prompts):
            ids = manner.ids(self._tokenizer, prompt)
            if len(ids) > longest:
                failures.append(too_long(number, len(ids), longest))
                continue
            for sample in prompt.samples:
                yield {
                    "request_id": f"{number}:{sample}",
                    "prompt": TokensPrompt(prompt_token_ids=ids),
                    "params": SamplingParams(**settings(manner, prompt, sample, barred, end)),
                    "lora_request": self._lora,
                }

    def _whole(self, output: Any, manner: Manner, seen: int) -> Written | None:
        """The response so far, if it is over; what vLLM would go on writing is stopped."""
        (so_far,) = output.outputs
        if not output.finished and manner.finish(so_far.text, seen) is None:
            return None
        ids = list(so_far.token_ids)
        if so_far.finish_reason == "stop":  # no stop strings are given, so it was an end token
            ids = ids[:-1]
        text = decode(self._tokenizer, ids)
        over = manner.finish(text)
        if over is not None:
            ids = ids[: reach(self._tokenizer, ids, over)]
        if not output.finished:
            self._vllm.abort_request([output.request_id])
        logprob = None
        if so_far.logprobs is not None:
            steps = zip(ids, so_far.logprobs, strict=False)
            logprob = sum(step[token].logprob for token, step in steps)
        return manner.kept(self._tokenizer, Written(text if over is None else over, ids, logprob))


def room(adapter: Path, model: str) -> int:
    """The least rank that vLLM makes room for and the adapter fits in."""
    rank = adapter_config(adapter, model).get("r", 8)
    least = next((each for each in RANKS if isinstance(rank, int) and rank <= each), None)
    if least is None:
        raise InputError(f"{adapter}: rank {rank}; vLLM takes at most {RANKS[-1]}")
    return least


def _line(error: Exception) -> str:
    """The first line of a library's error."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
