"""A plain PyTorch loop of the same maths: pad, forward, logits at the supervised positions, cross-entropy, AdamW."""

import random
from typing import Any

import material
import torch
import torch.nn.functional as F
from transformers import GPT2LMHeadModel

from contestants.counting import Counts


def run(spec: dict[str, Any], pace: Any) -> None:
    model = GPT2LMHeadModel.from_pretrained(spec["model"], dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec["learning_rate"], weight_decay=0.0, fused=True)
    rows = []
    for row in material.read_rows(spec["data"]):
        prompt = material.ids(row["prompt"], spec["vocabulary"])
        response = material.ids(row["response"], spec["vocabulary"], eos=True)
        rows.append((torch.tensor(prompt + response), len(prompt)))
    counts = Counts("supervised_tokens", flop=spec["flop"])
    dice = random.Random(0)
    pace.ready(num_parameters=sum(parameter.numel() for parameter in model.parameters()))
    while pace.wait():
        dice.shuffle(rows)
        for start in range(0, len(rows), spec["batch_size"]):
            counts.add(_step(model, optimizer, rows[start : start + spec["batch_size"]]))
        pace.done(**counts.take())


def _step(
    model: GPT2LMHeadModel, optimizer: torch.optim.Optimizer, rows: list[tuple[torch.Tensor, int]]
) -> dict[str, float]:
    length = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    mask = torch.zeros(len(rows), length, dtype=torch.int64)
    learned = torch.zeros(len(rows), length, dtype=torch.bool)
    for place, (row, prompt_length) in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
        learned[place, prompt_length - 1 : len(row) - 1] = True
    hidden = model.transformer(ids, attention_mask=mask, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[learned])
    loss = F.cross_entropy(logits, ids.roll(-1, 1)[learned])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    supervised = int(learned.sum())
    return {
        "supervised_tokens": supervised,
        "tokens": int(mask.sum()),
        "positions": ids.numel(),
        "loss": float(loss.detach()) * supervised,
    }
