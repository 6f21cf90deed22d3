"""Models that write text for the tools: causal models, seq2seq models, and endpoints.

A source names a model by its hub name or folder, or an OpenAI-compatible endpoint as `URL#model`; keys come from
the environment. A further `#…` belongs to the tool (`ModelSource.parse`). Models are loaded once per process and
decode greedily, or with the beams of their own configuration, up to the end of the line.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

from trice.errors import InputError, ToolError, ToolUnavailable
from trice.models import LOADING
from trice.models.embedded import GEMMA, MODELS
from trice.models.replies import Reply
from trice.models.server_pool import check_url, is_url
from trice.storage.cache import Once

MODEL = GEMMA.name  # the default
MAX_READ = 1024  # tokens of an input, for models without a stated maximum


class Writer(ABC):
    """A model that continues texts, in one thread at a time. `needs_examples` says whether the prompt has to contain
    few-shot examples."""

    needs_examples = True

    def __init__(self) -> None:
        self.lock = RLock()

    @abstractmethod
    def write(self, texts: Sequence[str], tokens: int) -> list[str]:
        """One line for each text, of at most `tokens` new tokens."""


class CausalWriter(Writer):
    """A causal language model of transformers."""

    def __init__(self, name: str) -> None:
        from trice.models.local import load

        super().__init__()
        self._model = load(name)

    def write(self, texts: Sequence[str], tokens: int) -> list[str]:
        """The continuation of each text."""
        from trice.models.generation import complete
        from trice.models.sampling import Sampling

        prompts = [self._model.tokenizer(text)["input_ids"] for text in texts]
        with self.lock:
            return list(map(first_line, complete(self._model, prompts, Sampling(tokens), _whole_line)))


class Seq2SeqWriter(Writer):
    """An encoder-decoder of transformers, such as T5, Marian, M2M100 or NLLB."""

    needs_examples = False

    def __init__(self, name: str) -> None:
        from transformers import AutoModelForSeq2SeqLM

        super().__init__()
        self.name = name
        self.tokenizer, self.model = load_parts(name, AutoModelForSeq2SeqLM)

    def write(self, texts: Sequence[str], tokens: int, begin: int | None = None) -> list[str]:
        """The model's outputs. `begin` is the first token of each output, such as that of a language."""
        import torch

        read = min(self.tokenizer.model_max_length, MAX_READ)
        options = {} if begin is None else {"forced_bos_token_id": begin}
        with self.lock, torch.inference_mode():
            inputs = self.tokenizer(
                list(texts), return_tensors="pt", padding=True, truncation=True, max_length=read
            )
            inputs = {key: inputs[key].to(self.model.device) for key in ("input_ids", "attention_mask")}
            written = self.model.generate(**inputs, max_new_tokens=tokens, do_sample=False, **options)
        if begin is not None:
            written = written[:, 2:]  # some tokenizers do not treat the language token as a special token
        return [first_line(text) for text in self.tokenizer.batch_decode(written, skip_special_tokens=True)]


class EndpointWriter(Writer):
    """An endpoint. It keeps its answers, so that no answer is paid for twice when a batch is retried."""

    def __init__(self, url: str, model: str) -> None:
        from trice.models.api_keys import api_keys
        from trice.models.endpoint import Endpoint

        super().__init__()
        self._endpoint = Endpoint(url, model, api_keys())
        self._kept: dict[tuple[str, int], str] = {}

    def write(self, texts: Sequence[str], tokens: int) -> list[str]:
        """The answers. Raises ToolError if a text is refused, and TriceError if the server fails."""
        with self.lock:
            asked = [text for text in dict.fromkeys(texts) if (text, tokens) not in self._kept]

            def done(index: int, replies: dict[int, Reply]) -> None:
                self._kept[asked[index], tokens] = first_line(replies[0].text)

            requests = [[{"role": "user", "content": text}] for text in asked]
            failures = self._endpoint.complete(requests, done, max_tokens=tokens)
        for failure in sorted(failures, key=lambda failure: not failure.down):
            kind = ToolUnavailable if failure.down else ToolError
            raise kind(f"the endpoint gave no answer: {failure.reason}")
        return [self._kept[text, tokens] for text in texts]


@dataclass(frozen=True)
class ModelSource:
    """A model by its hub name or folder; with a `url`, a model of an endpoint."""

    model: str
    url: str | None = None

    @classmethod
    def parse(cls, text: str) -> tuple[ModelSource | None, str]:
        """The model or endpoint in a tool's source, if any, and the text after a further `#`."""
        first, *others = text.split("#")
        if is_url(first):
            return cls("".join(others[:1]), first), "#".join(others[1:])
        return cls(first) if first else None, "#".join(others)

    @property
    def version(self) -> str | None:
        """Identifies a model; for a folder, also the state of its files. None for an endpoint, which may change."""
        if self.url is not None:
            return None
        folder = Path(self.model)
        if not folder.is_dir():
            return self.model
        files = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir())
        return f"{self.model} {hashlib.sha256(repr(files).encode()).hexdigest()[:16]}"


def model_kind(source: ModelSource) -> str:
    """The kind of a model: `endpoint`, `extractive`, `seq2seq` or `causal`.

    Raises InputError for a missing model, and for an endpoint without a model name."""
    if source.url is not None:
        if not source.model:
            raise InputError(f"endpoint '{source.url}': the model's name is missing; write URL#model-name")
        check_url(source.url)
        return "endpoint"
    if source.model in MODELS:
        MODELS[source.model].check()
        return "causal"
    from transformers import AutoConfig

    from trice.models.local import check_model

    check_model(source.model)
    config = AutoConfig.from_pretrained(source.model)
    if any(name.endswith("ForQuestionAnswering") for name in config.architectures or ()):
        return "extractive"
    return "seq2seq" if config.is_encoder_decoder else "causal"


@Once
def open_writer(source: ModelSource) -> Writer:
    """The writer of a model, loaded on the first call. Raises InputError if the model is missing or cannot
    write."""
    kind = model_kind(source)
    if source.url is not None:
        return EndpointWriter(source.url, source.model)
    if kind == "extractive":
        raise InputError(
            f"model '{source.model}': is extractive and cannot write text; choose a causal or seq2seq model"
        )
    return Seq2SeqWriter(source.model) if kind == "seq2seq" else CausalWriter(source.model)


def first_line(text: str) -> str:
    """The first line of a text that is not blank."""
    return text.strip().partition("\n")[0].strip()


def load_parts(name: str, kind: Any) -> tuple[Any, Any]:
    """A tokenizer and a model in evaluation mode, of an auto class of transformers. Raises InputError if they do
    not load."""
    from transformers import AutoTokenizer

    from trice.models.local import UNLOADABLE, pick_device, quiet

    quiet()
    try:
        with LOADING:
            model = kind.from_pretrained(name).to(pick_device("auto")).eval()
            return AutoTokenizer.from_pretrained(name), model
    except (ImportError, *UNLOADABLE) as error:  # some tokenizers need sentencepiece
        raise InputError(f"model '{name}': cannot be loaded ({str(error).strip().splitlines()[0]})") from None


def _whole_line(text: str, seen: int) -> str | None:
    return text if "\n" in text.lstrip() else None
