"""Reward models from rankings against TRL, which knows pairs only: a ranking of K is K (K - 1) / 2 of its rows.

One repetition is one epoch over the same rankings, all pairs; the work counted is ranked comparisons. One optimizer
step sees the comparisons of the same number of prompts: ours as so many rankings, TRL's as so many pairs, drawn from
all. fp32, AdamW, no clipping, no dropout, the same head.

What differs: TRL's batch is passed in micro-batches of 6 pairs, the fastest of those tried (6, 12 and 24 of K = 4; 6,
12 and 36 of K = 9; none smaller); ours in one. TRL keeps accuracy, margin and extremes of the rewards, which cannot be
switched off. Its gradient checkpointing and bf16, both on by default, are off.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import material

from rows import Bar, Contestant, Row

SHAPE = {
    "layers": 4,
    "hidden": 256,
    "vocabulary": 8192,
    "positions": 1024,
    "prompt_tokens": 128,
    "response_tokens": 64,
    "max_length": 512,
    "learning_rate": 1e-7,
    "precision": "32-true",
}
FOUR = {**SHAPE, "candidates": 4, "rows": 8, "batch_size": 4}
NINE = {**SHAPE, "candidates": 9, "rows": 4, "batch_size": 2}

OURS = Contestant("ours", "ours_reward")
TRL = Contestant("TRL 1.16", "trl_reward", "trl-1.16", {"micro_batch": 6})
BARE = Contestant("bare loop", "bare_reward")


def prepare(spec: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The model, a head, the rankings, and the operations that an epoch needs at least: every prompt once."""
    import torch

    names = ("layers", "hidden", "vocabulary", "positions")
    material.write_gpt2(folder / "model", **{name: spec[name] for name in names})
    head = torch.randn(1, spec["hidden"], generator=torch.Generator().manual_seed(0)) / (spec["hidden"] + 1) ** 0.5
    torch.save(head, folder / "head.pt")
    material.write_rows(folder / "rankings.jsonl", material.rankings(spec))
    prompt, response, many = spec["prompt_tokens"], spec["response_tokens"], spec["candidates"]
    size = {"layers": spec["layers"], "hidden": spec["hidden"], "vocabulary": spec["vocabulary"], "num_logits": 0}
    whole = material.forward_flop(**size, lengths=[prompt + response])
    again = whole - material.forward_flop(**size, lengths=[prompt])
    forward = spec["rows"] * (whole + (many - 1) * again)
    return {
        "model": str(folder / "model"),
        "head": str(folder / "head.pt"),
        "data": str(folder / "rankings.jsonl"),
        "flop": 3 * forward,
    }


def _row(name: str, spec: Mapping[str, Any], at_least: float) -> Row:
    return Row(
        name=name,
        title=f"reward model, GPT-2 4 x 256, prompt 128, responses 64, K = {spec['candidates']}, all pairs",
        spec=spec,
        contestants=(OURS, TRL),
        work="comparisons",
        bars=(Bar("speed", TRL.label, at_least=at_least),),
        prepare=prepare,
        equal=("comparisons",),
        close={"loss": 1e-3},
        repeats=3,
    )


ROWS = [_row("reward-4", FOUR, 6), _row("reward-9", NINE, 20)]
