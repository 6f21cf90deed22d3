"""What writes the texts of the tools that ask a model: a causal model, a seq2seq model, or an endpoint.

A `source` names one of them: a model's hub name or folder, or `URL#model` for an OpenAI-compatible endpoint, whose
keys are taken from the environment. A further `#…` is the tool's own, as `split_source` gives it. Models are loaded
once per process and write greedily, or with the beams of their own configuration, to the end of the line.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from threading import RLock
from typing import Any

from trice.errors import InputError, ToolError, ToolUnavailable
from trice.models import LOADING, gemma
from trice.models.replies import Reply
from trice.models.server_pool import check_url, is_url
from trice.storage.cache import Once

MODEL = gemma.NAME  # the embedded default
MAX_READ = 1024  # tokens of an input, for models that do not say what they bear


class Writer(ABC):
    """Continues texts. Only one that is `shown` examples can be told by them what to do."""

    shown = True

    def __init__(self) -> None:
        self.alone = RLock()  # held while it writes: one thread at a time

    @abstractmethod
    def write(self, texts: Sequence[str], tokens: int) -> list[str]:
        """One line for each text, of at most so many new tokens."""


class Causal(Writer):
    """A causal language model of transformers."""

    def __init__(self, name: str) -> None:
        from trice.models.local import load

        super().__init__()
        self._model = load(name)

    def write(self, texts: Sequence[str], tokens: int) -> list[str]:
        """What follows each text."""
        from trice.models.generation import complete
        from trice.models.sampling import Sampling

        prompts = [self._model.tokenizer(text)["input_ids"] for text in texts]
        with self.alone:
            return list(map(first_line, complete(self._model, prompts, Sampling(tokens), _whole_line)))


class Seq2Seq(Writer):
    """An encoder-decoder of transformers, such as T5, Marian, M2M100 or NLLB."""

    shown = False

    def __init__(self, name: str) -> None:
        from transformers import AutoModelForSeq2SeqLM

        super().__init__()
        self.name = name
        self.tokenizer, self.model = load_parts(name, AutoModelForSeq2SeqLM)

    def write(self, texts: Sequence[str], tokens: int, begin: int | None = None) -> list[str]:
        """The model's outputs, behind the token `begin` where one is given, such as that of a language."""
        with self.alone:
            return self._written(texts, tokens, begin)

    def _written(self, texts: Sequence[str], tokens: int, begin: int | None) -> list[str]:
        import torch

        read = min(self.tokenizer.model_max_length, MAX_READ)
        inputs = self.tokenizer(
            list(texts), return_tensors="pt", padding=True, truncation=True, max_length=read
        )
        inputs = {key: inputs[key].to(self.model.device) for key in ("input_ids", "attention_mask")}
        options = {} if begin is None else {"forced_bos_token_id": begin}
        with torch.inference_mode():
            written = self.model.generate(**inputs, max_new_tokens=tokens, do_sample=False, **options)
        if begin is not None:
            written = written[:, 2:]  # not all tokenizers know it, behind the start token, as a special one
        return [first_line(text) for text in self.tokenizer.batch_decode(written, skip_special_tokens=True)]


class Chat(Writer):
    """An endpoint. Keeps what it was answered, so that no answer is paid twice when a batch is tried again."""

    def __init__(self, url: str, model: str) -> None:
        from trice.models.api_keys import api_keys
        from trice.models.endpoint import Endpoint

        super().__init__()
        self._endpoint = Endpoint(url, model, api_keys())
        self._kept: dict[tuple[str, int], str] = {}

    def write(self, texts: Sequence[str], tokens: int) -> list[str]:
        """The answers. Raises ToolError where one of the texts gets none for a reason of its own, TriceError where
        the server is at fault."""
        with self.alone:
            return self._written(texts, tokens)

    def _written(self, texts: Sequence[str], tokens: int) -> list[str]:
        asked = [text for text in dict.fromkeys(texts) if (text, tokens) not in self._kept]

        def done(index: int, replies: dict[int, Reply]) -> None:
            self._kept[asked[index], tokens] = first_line(replies[0].text)

        requests = [[{"role": "user", "content": text}] for text in asked]
        failures = self._endpoint.complete(requests, done, max_tokens=tokens)
        for failure in sorted(failures, key=lambda failure: not failure.down):
            kind = ToolUnavailable if failure.down else ToolError
            raise kind(f"the endpoint gave no answer: {failure.reason}")
        return [self._kept[text, tokens] for text in texts]


def split_source(source: str) -> tuple[str, str]:
    """The model or endpoint of a source, and what stands behind a further `#`, else nothing."""
    parts = source.split("#")
    own = 2 if is_url(source) else 1
    return "#".join(parts[:own]), "#".join(parts[own:])


def kind(source: str) -> str:
    """What is behind a source: `endpoint`, `extractive`, `seq2seq` or `causal`.

    Raises InputError for a model that is not there, and an endpoint without a model's name."""
    if is_url(source):
        if not all(source.partition("#")):
            raise InputError(f"endpoint '{source}': write it as URL#model-name")
        check_url(source.partition("#")[0])
        return "endpoint"
    if source == gemma.NAME:
        gemma.check()
        return "causal"
    from transformers import AutoConfig

    from trice.models.local import check_model

    check_model(source)
    config = AutoConfig.from_pretrained(source)
    if any(name.endswith("ForQuestionAnswering") for name in config.architectures or ()):
        return "extractive"
    return "seq2seq" if config.is_encoder_decoder else "causal"


@Once
def open_writer(source: str) -> Writer:
    """What writes for a source, loaded at the first call. Raises InputError where there is none."""
    found = kind(source)
    if found == "endpoint":
        url, _, model = source.partition("#")
        return Chat(url, model)
    if found == "extractive":
        raise InputError(f"model '{source}': marks answers in passages, and writes nothing")
    return Seq2Seq(source) if found == "seq2seq" else Causal(source)


def version(source: str) -> str:
    """Names a model; for a folder, also the state of its files."""
    folder = Path(source)
    if is_url(source) or not folder.is_dir():
        return source
    files = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir())
    return f"{source} {hashlib.sha256(repr(files).encode()).hexdigest()[:16]}"


def first_line(text: str) -> str:
    """The first line of a text that is not blank."""
    return text.strip().partition("\n")[0].strip()


def load_parts(name: str, kind: Any) -> tuple[Any, Any]:
    """A model's tokenizer and the model itself, of an auto class of transformers, ready to be asked.

    Raises InputError where they cannot be loaded."""
    from transformers import AutoTokenizer

    from trice.models.local import UNLOADABLE, pick_device, quiet

    quiet()
    try:
        with LOADING:
            model = kind.from_pretrained(name).to(pick_device("auto")).eval()
            return AutoTokenizer.from_pretrained(name), model
    except (ImportError, *UNLOADABLE) as error:  # some tokenizers want sentencepiece
        raise InputError(f"model '{name}': cannot be loaded ({str(error).strip().splitlines()[0]})") from None


def _whole_line(text: str, seen: int) -> str | None:
    return text if "\n" in text.lstrip() else None
