"""Log-probabilities of responses under any causal LM of transformers, with every distinct prefix computed once.

`PackedForward` runs the model's layers once over the tree of a micro-batch (`trice.training.packing`) and applies
the output head only to the states that predict a response token. It compares itself with the model's plain forward
pass first. If the numbers differ (because the model's attention takes no custom mask, its positions cannot be given,
or its logits are changed after the head), the next simpler strategy is used; the last one is the plain forward pass
over padded sequences. This module neither trains nor changes a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Any, NamedTuple, Self

import torch

from trice.errors import InputError, TriceError
from trice.models.attention_masks import layer_masks
from trice.models.rounding import within_rounding
from trice.progress import notice
from trice.training.attention import NAME as TREE_ATTENTION
from trice.training.attention import key_uses, multiplies_sparse
from trice.training.output_head import accumulation_dtype, token_log_probs
from trice.training.packing import Layout, Packed, ResponseTokens, TokenizedExample, pack
from trice.training.tokenization import tokenize

PROBE_TOKENS = 24  # tokens of a prompt, and of a response, on which strategies are compared
# The largest difference of a log-probability, relative to 1 + |log p| / 8.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-3}
# In half precision the root mean square is compared, and a larger one is allowed if the model's own rounding
# explains it.
HALF_TOLERANCE = 0.3
HEAD_TOLERANCE = 0.05  # the same, between the model's output head and `token_log_probs` on equal states


class PackingStrategy(NamedTuple):
    """How a model's log-probabilities are computed: the layout of its tokens, and whether they come from the model's
    logits (`model_head`) instead of `token_log_probs`."""

    layout: Layout = "blocks"
    model_head: bool = False

    def __str__(self) -> str:
        prompts = "one padded sequence for each response" if self.layout == "padded" else "shared prompts"
        return f"{prompts}, {'logits of the model' if self.model_head else 'tiled log-probabilities'}"


STRATEGIES = [
    PackingStrategy(layout, model_head)
    for model_head in (False, True)
    for layout in ("blocks", "mask", "padded")
]  # fastest first


class PackedForward:
    """Computes log-probabilities of response tokens with gradients, for a plain or PEFT causal LM of transformers.

    The strategy is chosen when the object is made, by comparison with the plain forward pass on two examples; a
    notice says if it is not the fastest one. Between calls the model is what it was before: its attention
    implementation and its `forward` are replaced during a call only. With gradient checkpointing, layers run again
    in the backward pass, so keep that within a `with` block, in which the attention implementation stays replaced.

    Args:
        model: A causal LM of transformers, or a PEFT model of one. Weights may be trained or frozen.
        rows: Some rows of the training set: records with `prompt` and `response`, or with `prompt`, `responses` and
            `rewards`, or `TokenizedExample`s. The beginnings of the first two are compared.
        tokenizer: The tokenizer, for records.

    Raises:
        InputError: If the adapter is a learned prompt, which is not part of the layers, or a record has other
        fields. TriceError: If no strategy gives the model's own log-probabilities.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from trice import PackedForward
        >>> from trice.training.packing import TokenizedExample
        >>> config = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        ...                      num_attention_heads=2)
        >>> model = LlamaForCausalLM(config)
        >>> question = TokenizedExample.of([5, 6, 7], [[8, 9, 2], [8, 2]], rewards=[1.0, 0.0])
        >>> with PackedForward(model, [question]) as forward:
        ...     packed = forward.pack([question])
        ...     logps_N = forward(packed)
        >>> logps_N.shape, packed.response_N.tolist()
        (torch.Size([5]), [0, 0, 0, 1, 1])
    """

    def __init__(
        self, model: Any, rows: Sequence[TokenizedExample | Mapping[str, Any]], tokenizer: Any = None
    ) -> None:
        if any(config.is_prompt_learning for config in getattr(model, "peft_config", {}).values()):
            raise InputError(
                "PackedForward: an adapter that is a learned prompt is not part of the model's layers; use LoRA"
            )
        self.model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.tokenizer = tokenizer
        self._plain_attention: str = self.model.config._attn_implementation
        self._replaced: list[str] = []
        self.strategy = self._choose(_probes(tokenize(islice(rows, 2), tokenizer)))
        if self.strategy != STRATEGIES[0]:
            notice(f"{type(self.model).__name__}: log-probabilities are computed with {self.strategy}")

    def pack(
        self,
        rows: Sequence[TokenizedExample | Mapping[str, Any]],
        device: torch.device | str | None = None,
    ) -> Packed:
        """Lay out a micro-batch for this model, on its device unless another is given."""
        examples = tokenize(rows, self.tokenizer)
        return pack(examples, self.strategy.layout, device or next(self.model.parameters()).device)

    def __call__(self, packed: Packed, through: Any = None) -> torch.Tensor:
        """Compute log p of each response token that carries loss.

        Args:
            packed: A micro-batch from `pack`, on the model's device.
            through: The module that contains the model, if a call has to pass through it: PEFT, DDP or FSDP.

        Returns:
            [N] in float32 (float64 for a float64 model); `packed.response_N` says which response a token belongs
            to.
        """
        with self, self._accepting_packed(), half_precision_autocast(self.model):
            logps_N: torch.Tensor = (self.model if through is None else through)(packed=packed)
        return logps_N

    def __enter__(self) -> Self:
        self._replaced.append(self.model.config._attn_implementation)
        self._attend(TREE_ATTENTION if self.strategy.layout == "blocks" else self._plain_attention)
        return self

    def __exit__(self, *error: object) -> None:
        self._attend(self._replaced.pop())

    def _attend(self, implementation: str) -> None:
        if self.model.config._attn_implementation != implementation:
            self.model.set_attn_implementation(implementation)

    @contextmanager
    def _accepting_packed(self) -> Iterator[None]:
        """In this context, `forward` of the model and of its output head take `packed=` and return log-probabilities.
        (FSDP and ZeRO gather a module's weights only while the module is called.)"""
        head = self.model.get_output_embeddings()

        def model_forward(plain: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, packed: Packed | None = None, **kwargs: Any) -> Any:
                return plain(*args, **kwargs) if packed is None else self._log_probs(packed)

            return forward

        def head_forward(plain: Callable[..., Any]) -> Callable[..., Any]:
            def forward(hidden: torch.Tensor, packed: Packed | None = None) -> Any:
                return plain(hidden) if packed is None else self._head_log_probs(head, hidden, packed)

            return forward

        with (
            _replaced_forward(self.model, model_forward),
            _replaced_forward(head, head_forward) if head is not None else nullcontext(),
        ):
            yield

    def _log_probs(self, packed: Packed) -> torch.Tensor:
        inputs, head = model_inputs(self.model, packed), self.model.get_output_embeddings()
        trained_head = head is not None and any(weight.requires_grad for weight in head.parameters())
        # `token_log_probs` gives the head's weight no gradient.
        if self.strategy.model_head or (trained_head and torch.is_grad_enabled()):
            logps_E = self._logits_log_probs(inputs, packed)
        else:
            hidden_RTD = getattr(self.model, self.model.base_model_prefix)(**inputs)[0]
            # Not by indexing: its backward pass adds gradients in the order in which threads arrive, which would
            # give other bytes in every run.
            hidden_MD = hidden_RTD.flatten(0, 1).index_select(0, packed.source_M)
            logps_E = head(hidden_MD, packed=packed)
        return logps_E.index_select(0, packed.edge_N)

    def _head_log_probs(self, head: Any, hidden_MD: torch.Tensor, packed: Packed) -> torch.Tensor:
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        hidden_MD = hidden_MD.to(head.weight.dtype)
        return token_log_probs(hidden_MD, head.weight, packed.state_E, packed.target_E, cap)

    def _logits_log_probs(self, inputs: dict[str, Any], packed: Packed) -> torch.Tensor:
        if len(packed.tokens_RT) == 1:
            logits_MV = self.model(**inputs, logits_to_keep=packed.source_M).logits[0]
        else:
            logits_MV = self.model(**inputs).logits.flatten(0, 1).index_select(0, packed.source_M)
        logps_MV = logits_MV.to(accumulation_dtype(logits_MV)).log_softmax(-1)
        logps_E: torch.Tensor = logps_MV[packed.state_E, packed.target_E]
        return logps_E

    @torch.no_grad()
    def _choose(self, probes: list[TokenizedExample]) -> PackingStrategy:
        """The first strategy that gives the log-probabilities of the plain forward pass."""
        model, was_training = self.model, self.model.training
        model.eval()
        try:
            plain = self._plain_log_probs(probes)
            for strategy in STRATEGIES:
                if strategy.layout == "blocks" and self._plain_attention != "sdpa":
                    continue
                self.strategy = strategy
                try:
                    if self._agrees(self.pack(probes), plain, probes):
                        return strategy
                except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
                    continue  # the model's forward takes no such mask, positions or argument
        finally:
            model.train(was_training)
        raise TriceError(
            f"{type(model).__name__}: no strategy of PackedForward gives the log-probabilities of the model's "
            f"plain forward pass ({plain.tolist()})"
        )

    def _agrees(self, packed: Packed, plain: torch.Tensor, probes: list[TokenizedExample]) -> bool:
        """Whether the current strategy gives the log-probabilities `plain`."""
        model, found = self.model, self(packed)
        # Which columns a product in 8 bits keeps in full precision depends on all of its rows.
        if model.dtype in TOLERANCE and not getattr(model, "is_loaded_in_8bit", False):
            return bool((_differences(found, plain) <= TOLERANCE[model.dtype]).all())
        if not self.strategy.model_head and not self._head_is_all(packed, found):
            return False
        return within_rounding(
            model,
            _root_mean_square(found, plain),
            HALF_TOLERANCE,
            lambda: _root_mean_square(self._plain_log_probs(probes), plain),
        )

    def _head_is_all(self, packed: Packed, found: torch.Tensor) -> bool:
        """Whether the model's logits give the same log-probabilities as `token_log_probs`, which are `found`."""
        tiled = self.strategy
        self.strategy = tiled._replace(model_head=True)
        try:
            through_logits = self(packed)
        except TypeError:  # the model's forward takes no `logits_to_keep`
            return True
        finally:
            self.strategy = tiled
        return _root_mean_square(found, through_logits) <= HEAD_TOLERANCE

    def _plain_log_probs(self, examples: Sequence[TokenizedExample]) -> torch.Tensor:
        """Log-probabilities of all tokens with loss from the plain forward pass, one response at a time."""
        device, found = next(self.model.parameters()).device, []
        for example in examples:
            for ids, loss in example.responses:
                tokens = torch.tensor([example.prompt + ids], device=device)
                with half_precision_autocast(self.model):
                    logits = self.model(input_ids=tokens, use_cache=False).logits[0, -len(ids) - 1 : -1]
                logps = logits.to(accumulation_dtype(logits)).log_softmax(-1)
                chosen = logps.gather(1, tokens[0, -len(ids) :, None]).squeeze(1)
                found.append(chosen[torch.tensor(loss, device=device)])
        return torch.cat(found)


@contextmanager
def _replaced_forward(
    module: Any, replacement: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """In this context, `module.forward` is replaced by the result of `replacement`."""
    instance_forward = vars(module).get("forward")
    module.forward = replacement(module.forward)
    try:
        yield
    finally:
        if instance_forward is None:
            del module.forward  # the class's method again
        else:
            module.forward = instance_forward


def model_inputs(model: Any, packed: Packed) -> dict[str, Any]:
    """The arguments of the model's forward for a packed micro-batch."""
    shared = {"input_ids": packed.tokens_RT, "use_cache": False}
    allowed = packed.allowed_BQK
    if allowed.dim() == 2:  # padded: one sequence in each row
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


def _probes(examples: Sequence[TokenizedExample]) -> list[TokenizedExample]:
    """The beginnings of two examples, with two responses each."""

    def shortened(example: TokenizedExample) -> TokenizedExample:
        responses = [
            ResponseTokens(ids[:PROBE_TOKENS], loss[:PROBE_TOKENS]) for ids, loss in example.responses[:2]
        ]
        return TokenizedExample(example.prompt[:PROBE_TOKENS], responses, example.rewards[:2])

    return [shortened(example) for example in examples[:2]]


def _differences(found: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
    return (found - plain).abs() / (1 + plain.abs() / 8)


def _root_mean_square(found: torch.Tensor, plain: torch.Tensor) -> float:
    return float(_differences(found, plain).square().mean().sqrt())


def half_precision_autocast(model: Any) -> Any:
    """Autocast to a half-precision model's dtype. LoRA's float32 weights are then multiplied in half precision too;
    otherwise they would convert every layer's input to float32."""
    half = model.dtype in (torch.bfloat16, torch.float16)
    return torch.autocast(model.device.type, model.dtype) if half else nullcontext()
