"""A plain PyTorch loop of the same maths: K rows per prompt, one score each, all pairs, AdamW.

With `shared_prefix` the K responses of a prompt stand in one row behind it and do not see each other.
"""

import random
from typing import Any

import material
import torch
import torch.nn.functional as F
from transformers import GPT2LMHeadModel

from contestants.counting import Counts


def run(spec: dict[str, Any], pace: Any) -> None:
    backbone = GPT2LMHeadModel.from_pretrained(spec["model"], dtype=torch.float32).transformer.train()
    head = torch.nn.Linear(spec["hidden"], 1)
    with torch.no_grad():
        head.weight.copy_(torch.load(spec["head"], weights_only=True))
        head.bias.zero_()
    parameters = [*backbone.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=spec["learning_rate"], weight_decay=0.0, fused=True)
    rows = []
    for row in material.read_rows(spec["data"]):
        prompt = material.ids(row["prompt"], spec["vocabulary"])
        responses = [material.ids(response, spec["vocabulary"], eos=True) for response in row["responses"]]
        rows.append((prompt, responses, torch.tensor(row["ranks"])))
    score = _shared_prefix_scores if spec.get("shared_prefix") else _scores
    counts = Counts("comparisons", flop=spec["flop"])
    dice = random.Random(0)
    pace.ready(num_parameters=sum(parameter.numel() for parameter in parameters))
    while pace.wait():
        dice.shuffle(rows)
        for start in range(0, len(rows), spec["batch_size"]):
            batch = rows[start : start + spec["batch_size"]]
            scores, tokens = score(backbone, head, batch)
            ranks = torch.stack([ranks for _, _, ranks in batch])
            better = ranks[:, :, None] < ranks[:, None, :]
            loss = -F.logsigmoid((scores[:, :, None] - scores[:, None, :])[better]).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            comparisons = int(better.sum())
            facts = {"comparisons": comparisons, "tokens": tokens, "loss": float(loss.detach()) * comparisons}
            counts.add(facts)
        pace.done(**counts.take())


def _scores(backbone: Any, head: Any, batch: list[Any]) -> tuple[torch.Tensor, int]:
    sequences = [torch.tensor(prompt + response) for prompt, responses, _ in batch for response in responses]
    length = max(map(len, sequences))
    ids = torch.zeros(len(sequences), length, dtype=torch.int64)
    mask = torch.zeros(len(sequences), length, dtype=torch.int64)
    for place, sequence in enumerate(sequences):
        ids[place, : len(sequence)] = sequence
        mask[place, : len(sequence)] = 1
    hidden = backbone(ids, attention_mask=mask, use_cache=False).last_hidden_state
    last = hidden[torch.arange(len(sequences)), mask.sum(-1) - 1]
    return head(last).view(len(batch), -1), int(mask.sum())


def _shared_prefix_scores(backbone: Any, head: Any, batch: list[Any]) -> tuple[torch.Tensor, int]:
    rows = [
        torch.tensor([*prompt, *(index for response in responses for index in response)])
        for prompt, responses, _ in batch
    ]
    length = max(map(len, rows))
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    positions = torch.zeros(len(rows), length, dtype=torch.int64)
    parts = torch.full((len(rows), length), -1, dtype=torch.int64)
    ends = torch.zeros(len(rows), len(batch[0][1]), dtype=torch.int64)
    for place, (prompt, responses, _) in enumerate(batch):
        ids[place, : len(rows[place])] = rows[place]
        positions[place, : len(prompt)] = torch.arange(len(prompt))
        parts[place, : len(prompt)] = 0
        start = len(prompt)
        for number, response in enumerate(responses):
            end = start + len(response)
            positions[place, start:end] = torch.arange(len(prompt), len(prompt) + len(response))
            parts[place, start:end] = number + 1
            ends[place, number] = start = end
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    mask = ((parts[:, :, None] == parts[:, None, :]) | (parts[:, None, :] == 0)) & causal
    hidden = backbone(ids, attention_mask=mask[:, None], position_ids=positions, use_cache=False).last_hidden_state
    last = hidden.gather(1, (ends - 1)[..., None].expand(-1, -1, hidden.shape[-1]))
    return head(last)[..., 0], sum(map(len, rows))
