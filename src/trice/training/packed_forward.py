"""The policy's log-probabilities of packed responses, for any causal LM of transformers.

The body runs once over a micro-batch's tree, the head only where something is predicted. A model that cannot be
run so (its attention takes no mask of ours, its positions are its own, its logits are changed after the head) is
found out by comparing with its plain forward pass on training examples, and gets the next simpler way, aloud.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch

from trice.errors import TriceError
from trice.models.attention_masks import layer_masks
from trice.models.rounding import within_rounding
from trice.progress import notice
from trice.training.attention import NAME as TREE_ATTENTION
from trice.training.attention import key_uses, multiplies_sparse
from trice.training.output_head import token_log_probs, wide
from trice.training.packing import Example, Layout, Packed, Tokens, pack

PROBE = 24  # tokens of a prompt, and of a response, that the ways are compared on
# Of a log-probability, and a little more where it is far from 0.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-3}
HALF_TOLERANCE = (
    0.3  # in half precision, of the root mean square, unless the model's rounding makes more of it
)
HEAD_TOLERANCE = 0.05  # likewise, between our output head and its own on the same states


class Way(NamedTuple):
    """How a model computes log-probabilities: the layout of its tokens, and whether through its own head."""

    layout: Layout = "blocks"
    own_head: bool = False

    def __str__(self) -> str:
        prompts = "every response with a prompt of its own" if self.layout == "rows" else "prompts shared"
        return f"{prompts}, {'its own' if self.own_head else 'our'} output head"


WAYS = [Way(layout, own) for own in (False, True) for layout in ("blocks", "mask", "rows")]


def log_probs(model: Any, packed: Packed, own_head: bool = False) -> torch.Tensor:
    """log p of every response token of a packed micro-batch, [N] in float32; only these meet the output head.

    `model` is a transformers causal LM whose head went through `teach`, LoRA layers injected or not.
    """
    inputs = model_inputs(model, packed)
    if own_head:
        logps_E = _through_own_head(model, inputs, packed)
    else:
        hidden_RTD = getattr(model, model.base_model_prefix)(**inputs)[0]
        # Not by indexing: the backward pass of indexing adds gradients in whatever order threads come, which
        # would give other bytes in every run.
        hidden_MD = hidden_RTD.flatten(0, 1).index_select(0, packed.source_M)
        logps_E = model.get_output_embeddings()(hidden_MD, packed=packed)
    return logps_E.index_select(0, packed.edge_N)


def teach(model: Any) -> None:
    """Let the model's output head take `packed=` too, and give the log-probabilities of its edges.

    In a call of its own, since FSDP and ZeRO gather a module's weight only where the module is called.
    """
    head = model.get_output_embeddings()
    if head is None:  # then its own way to logits is the only one
        return
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    plain = head.forward

    def forward(hidden: torch.Tensor, packed: Packed | None = None) -> Any:
        if packed is None:
            return plain(hidden)
        weight_VD = head.weight
        return token_log_probs(hidden.to(weight_VD.dtype), weight_VD, packed.state_E, packed.target_E, cap)

    head.forward = forward


def model_inputs(model: Any, packed: Packed) -> dict[str, Any]:
    """What a model's forward takes for this layout."""
    shared = {"input_ids": packed.tokens_RT, "use_cache": False}
    allowed = packed.allowed_BQK
    if allowed.dim() == 2:  # one sequence a row
        return {**shared, "attention_mask": allowed.long()}
    positions = packed.positions_RT
    shared["position_ids"] = positions
    if packed.keys_BK is None:
        return {**shared, "attention_mask": layer_masks(model.config, allowed, positions, positions)}
    keys = positions[0][packed.keys_BK]
    queries = keys[:, -allowed.shape[1] :]
    mask = layer_masks(model.config, allowed, queries, keys)
    blocks: dict[str, Any] = {"attention_mask": mask, "tree_keys_BK": packed.keys_BK}
    if multiplies_sparse(packed.keys_BK.device):
        blocks["tree_uses"] = key_uses(packed.keys_BK, packed.tokens_RT.shape[1])
    return {**shared, **blocks}


def _through_own_head(model: Any, inputs: dict[str, Any], packed: Packed) -> torch.Tensor:
    if len(packed.tokens_RT) == 1:
        logits_MV = model(**inputs, logits_to_keep=packed.source_M).logits[0]
    else:
        logits_MV = model(**inputs).logits.flatten(0, 1).index_select(0, packed.source_M)
    logps_E: torch.Tensor = logits_MV.to(wide(logits_MV)).log_softmax(-1)[packed.state_E, packed.target_E]
    return logps_E


def prepare(model: Any, examples: Sequence[Example]) -> Way:
    """Find the way this causal LM goes, and let its forward take `packed=`, a micro-batch in that way's layout.

    Such a call gives `log_probs`, and passes through whatever wraps the model (LoRA, DDP, FSDP). Says so where
    the model does not go the fastest way; raises TriceError where none gives its own log-probabilities.
    """
    teach(model)
    way = _find(model, _probes(examples))
    if way != WAYS[0]:
        notice(f"{type(model).__name__} is trained with {way}")
    plain = model.forward

    def forward(*args: Any, packed: Packed | None = None, **kwargs: Any) -> Any:
        return plain(*args, **kwargs) if packed is None else log_probs(model, packed, way.own_head)

    model.forward = forward
    return way


def _probes(examples: Sequence[Example]) -> list[Example]:
    """Short forms of two examples, with two responses each."""

    def cut(example: Example) -> Example:
        responses = [Tokens(ids[:PROBE], loss[:PROBE]) for ids, loss in example.responses[:2]]
        return Example(example.prompt[:PROBE], responses, example.rewards[:2])

    return [cut(example) for example in examples[:2]]


@torch.no_grad()
def _find(model: Any, probes: list[Example]) -> Way:
    device = next(model.parameters()).device
    attention = model.config._attn_implementation
    was_training = model.training
    model.eval()
    theirs = torch.cat([_plain(model, probe, device) for probe in probes])
    # Which columns a product in 8 bits keeps whole depends on all of its rows.
    exact = model.dtype in TOLERANCE and not getattr(model, "is_loaded_in_8bit", False)

    def same(ours: torch.Tensor) -> bool:
        if exact:
            return bool((_apart(ours, theirs) <= TOLERANCE[model.dtype]).all())

        def from_rounding() -> float:
            model.set_attn_implementation(attention)
            return _mean(torch.cat([_plain(model, probe, device) for probe in probes]), theirs)

        return within_rounding(model, _mean(ours, theirs), HALF_TOLERANCE, from_rounding)

    try:
        for way in WAYS:
            if way.layout == "blocks" and attention != "sdpa":
                continue
            kernel = TREE_ATTENTION if way.layout == "blocks" else attention
            model.set_attn_implementation(kernel)
            packed = pack(probes, way.layout, device)
            try:
                ours = log_probs(model, packed, way.own_head)
                found = (exact or way.own_head or _head_is_all(model, packed, ours)) and same(ours)
            except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
                continue  # its forward takes no such mask, positions or argument
            if found:
                model.set_attn_implementation(kernel)
                return way
    finally:
        model.train(was_training)
    raise TriceError(
        f"{type(model).__name__}: no way of this trainer gives the model's own log-probabilities "
        f"({theirs.tolist()})"
    )


def _head_is_all(model: Any, packed: Packed, ours: torch.Tensor) -> bool:
    """Whether the model's own way from states to log-probabilities gives the same as our output head."""
    try:
        theirs = log_probs(model, packed, own_head=True)
    except TypeError:  # its forward takes no `logits_to_keep`
        return True
    return _mean(ours, theirs) <= HEAD_TOLERANCE


def _plain(model: Any, example: Example, device: torch.device) -> torch.Tensor:
    """Log-probabilities of all tokens with loss, one response at a time."""
    found = []
    for ids, loss in example.responses:
        tokens = torch.tensor([example.prompt + ids], device=device)
        logits = model(input_ids=tokens, use_cache=False).logits[0, -len(ids) - 1 : -1]
        logps = logits.to(wide(logits)).log_softmax(-1)
        chosen = logps.gather(1, tokens[0, -len(ids) :, None]).squeeze(1)
        found.append(chosen[torch.tensor(loss, device=device)])
    return torch.cat(found)


def _apart(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    return (ours - theirs).abs() / (1 + theirs.abs() / 8)


def _mean(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The root mean square of what they are apart."""
    return float(_apart(ours, theirs).square().mean().sqrt())


def mixed(model: Any) -> Any:
    """Over a half-precision base, LoRA's float32 weights are multiplied in half precision too: elsewhere they
    would drag every layer's input through float32."""
    half = model.dtype in (torch.bfloat16, torch.float16)
    return torch.autocast(model.device.type, model.dtype) if half else nullcontext()
