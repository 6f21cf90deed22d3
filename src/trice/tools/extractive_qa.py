"""Extractive question answering: a model such as BERT trained on SQuAD marks the answer in a passage.

Long passages are read in overlapping windows. Models trained to find no answer return their best span.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import RLock
from typing import Any

from trice.storage.cache import Once
from trice.tools.text_models import load_parts

MAX_SPAN = 15  # tokens of an answer
STRIDE = 64  # tokens that a window shares with the one before it
WINDOW = 384  # tokens of a window with the question, if the model allows them
BATCH = 32  # windows at once
_LOCK = RLock()  # the tokenizer is not safe for several threads


def best_span(name: str, question: str, passages: Sequence[str]) -> str:
    """The span of the passages with the highest start plus end logit (Devlin and others,
    NAACL 2019, section 4.2)."""
    with _LOCK:
        spans = [span for passage in passages for span in _spans(name, question, passage)]
    return max(spans, default=(0.0, ""))[1]


def _spans(name: str, question: str, passage: str) -> Iterator[tuple[float, str]]:
    """The best span of each window of a passage, with its score."""
    import torch

    tokenizer, model = load(name)
    windows = _windows(tokenizer, question, passage)
    inputs = [key for key in tokenizer.model_input_names if key in windows]
    for first in range(0, len(windows["input_ids"]), BATCH):
        part = slice(first, first + BATCH)
        with torch.inference_mode():
            output = model(**{key: windows[key][part].to(model.device) for key in inputs})
        for row in range(len(output.start_logits)):
            inside = torch.tensor([place == 1 for place in windows.sequence_ids(first + row)])
            if not inside.any():
                continue
            start_S, end_S = (
                logits_BS[row].float().cpu().masked_fill(~inside, -torch.inf)
                for logits_BS in (output.start_logits, output.end_logits)
            )
            sums_SE = start_S.unsqueeze(1) + end_S
            allowed_SE = torch.ones_like(sums_SE, dtype=torch.bool).triu().tril(MAX_SPAN - 1)
            sums_SE = sums_SE.masked_fill(~allowed_SE, -torch.inf)
            start, end = divmod(int(sums_SE.argmax()), len(end_S))
            offsets = windows["offset_mapping"][first + row]
            text = passage[int(offsets[start][0]) : int(offsets[end][1])]
            yield float(sums_SE[start, end]), text.strip()


def _windows(tokenizer: Any, question: str, passage: str) -> Any:
    """Question and passage as model inputs, in windows."""
    longest = min(tokenizer.model_max_length, WINDOW)
    return tokenizer(
        question,
        passage,
        truncation="only_second",
        max_length=longest,
        stride=min(STRIDE, longest // 8),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding=True,
        return_tensors="pt",
    )


@Once
def load(name: str) -> tuple[Any, Any]:
    """The tokenizer and the model."""
    from transformers import AutoModelForQuestionAnswering

    return load_parts(name, AutoModelForQuestionAnswering)
