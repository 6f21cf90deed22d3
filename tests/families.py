"""Tiny random models of the families that TRICE is used with, and for each a tokenizer of the family's own kind.

A tokenizer is trained on the spot and built by the family's own class, with its special tokens, its way with
spaces and its chat template (a short form of it, in the published one's words)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WINDOW = 8  # of the sliding layers; shorter than the prompts of the tests
TEXT = (
    "Question: Tom has 12 apples and buys 30 more. How many apples has he?\nAnswer: calculator(12+30)",
    "Question: A shop sells 45 pens at 3 dollars each. What does it earn?\nAnswer: calculator(45*3)",
    "Question: What is the capital of France?\nAnswer: Paris. 0 1 2 3 4 5 6 7 8 9",
)


def config(family: str, tokenizer: Any) -> Any:
    """Two or a few layers of a family, random enough that a wrong mask or scale shows in what it writes."""
    import transformers

    sliding, full = "sliding_attention", "full_attention"
    kind, own = {
        "llama": ("LlamaConfig", {}),
        "gemma3": (
            "Gemma3TextConfig",
            {
                "num_hidden_layers": 4,
                "layer_types": [sliding, sliding, full, sliding],
                "sliding_window": WINDOW,
                "head_dim": 8,
                "query_pre_attn_scalar": 8,
                "final_logit_softcapping": 10.0,
                "tie_word_embeddings": False,  # else it writes the same token for ever
            },
        ),
        "gemma2": (
            "Gemma2Config",
            {
                "layer_types": [sliding, full],
                "sliding_window": WINDOW,
                "head_dim": 8,
                "query_pre_attn_scalar": 8,
                "attn_logit_softcapping": 2.0,
                "final_logit_softcapping": 10.0,
                "tie_word_embeddings": False,
            },
        ),
        "glm": ("GlmConfig", {"head_dim": 8}),
        "glm4": ("Glm4Config", {"head_dim": 8}),
        "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
        "qwen3": (
            "Qwen3Config",
            {
                "num_hidden_layers": 3,
                "use_sliding_window": True,
                "max_window_layers": 1,
                "sliding_window": WINDOW,
                "head_dim": 8,
            },
        ),
        "mistral": ("MistralConfig", {"sliding_window": WINDOW}),
        "phi3": ("Phi3Config", {}),
        "gpt_neox": ("GPTNeoXConfig", {}),
        "granite": ("GraniteConfig", {"logits_scaling": 8.0}),
    }[family]
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer) + 8,  # some families add a token when loaded
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.3,  # far from uniform, so that wrong masks show and ties are rare
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return getattr(transformers, kind)(**(shape | own))


CHAT = {
    "qwen": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "glm": "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "gemma": "<bos>{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    "mistral": "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}",
}


def tokenizer(family: str, **names: Any) -> Any:
    """A tokenizer of the family's own class; `names` sets special tokens, as a published checkpoint does."""
    import transformers

    kind = family.rstrip("0123456789")
    if kind in ("qwen", "glm"):
        special = {
            "qwen": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            "glm": ["<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>"],
        }[kind]
        vocabulary, merges = _learn(_bytes(), special)
        if kind == "glm":
            return _glm(vocabulary, merges, special)
        made = transformers.Qwen2Tokenizer(vocabulary, merges, **names)
        made.add_special_tokens({"additional_special_tokens": special})
    else:
        special = {
            "gemma": ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
        }.get(kind, ["<unk>", "<s>", "</s>"])
        vocabulary, merges = _learn(_spaces(), [*special, *(f"<0x{byte:02X}>" for byte in range(256))])
        own = transformers.GemmaTokenizer if kind == "gemma" else transformers.LlamaTokenizer
        made = own(vocabulary, merges, add_bos_token=True, **names)
        made.add_special_tokens({"additional_special_tokens": special[5:]})
    made.chat_template = CHAT.get(kind)
    return made


def _bytes() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return plain


def _spaces() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    plain = Tokenizer(models.BPE(unk_token="<unk>"))
    plain.normalizer = normalizers.Replace(" ", "▁")
    plain.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    return plain


def _learn(plain: Any, special: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges learned from TEXT, `special` first."""
    import json

    from tokenizers import pre_tokenizers, trainers

    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + 300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if special[0] == "<|endoftext|>" else [],
        show_progress=False,
    )
    plain.train_from_iterator(TEXT * 3, trainer)
    learned = json.loads(plain.to_str())["model"]
    return learned["vocab"], [tuple(pair) for pair in learned["merges"]]


def _glm(vocabulary: dict[str, int], merges: list[tuple[str, str]], special: list[str]) -> Any:
    """GLM has no class of its own: a plain fast tokenizer that opens every text with `[gMASK]<sop>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    plain.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A", special_tokens=[(name, vocabulary[name]) for name in special[1:3]]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=special[1:],
        chat_template=CHAT["glm"],
    )


def save(family: str, folder: Path, **names: Any) -> Path:
    """A model and tokenizer of the family in `folder`, as published checkpoints are."""
    import torch
    from transformers import AutoModelForCausalLM

    own = tokenizer(family, **names)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(family, own))
    if family.startswith("glm"):  # a turn of the user's ends the model's, too
        model.generation_config.eos_token_id = own.convert_tokens_to_ids(["<|endoftext|>", "<|user|>"])
    model.save_pretrained(folder)
    own.save_pretrained(folder)
    return folder
