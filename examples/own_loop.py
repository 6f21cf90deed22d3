"""The losses of stage 2 in a torch loop of your own, on any PEFT model: `python examples/own_loop.py [MODEL]`."""

import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from trice import PackedForward, losses

name = sys.argv[1] if len(sys.argv) > 1 else "HuggingFaceTB/SmolLM2-135M-Instruct"
tokenizer, base = AutoTokenizer.from_pretrained(name), AutoModelForCausalLM.from_pretrained(name)
model = get_peft_model(base, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
rows = [
    {"prompt": f"What is {n} * {n}?", "responses": [f"calculator({n}*{n})", f"{n}{n}"], "rewards": [1.0, 0.0]}
    for n in range(11, 19)
]
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
with PackedForward(model, rows, tokenizer) as forward:
    for step in range(4):
        packed = forward.pack(rows)
        logps_N = forward(packed)
        scores_S = losses.sequence_scores(logps_N, packed.response_N, packed.responses)
        ranked = losses.rank_loss(packed.by_question(scores_S), packed.rewards_QK, packed.real_QK)
        loss = ranked.loss_Q.mean() + losses.sft_loss(logps_N[packed.best_N()])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step}: loss {loss.item():.3f}, {ranked.ordered_Q.sum()} of {len(rows)} pairs in order")
