"""Supervised fine-tuning against TRL: padded rows, and packed rows against packed rows.

One repetition is one epoch over the same demonstrations, so that all contestants do the same work in whatever order and
grouping they like; one optimizer step sees 16 demonstrations (packed: rows of 512 tokens that hold 16 on average). Loss
on responses, fp32, AdamW, no clipping, no dropout, no logging inside the steps.

What differs: TRL's gradient checkpointing and bf16, both on by default, are off (they would slow it down here). Its
trainer keeps entropy and accuracy of the supervised tokens, which cannot be switched off; ours keeps the loss alone.
Both get a batch of 16 as one batch. In four micro-batches of 4, TRL takes the same time here and 0.4 of the memory.

Packed: TRL packs best-fit decreasing, ours joins neighbours, so that TRL's packed rows are fuller. On a CPU there is no
variable-length attention: TRL puts all packed rows of a step behind each other in one row, with a block mask over the
whole; ours keeps them in rows with a block mask each.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import material

from rows import Bar, Contestant, Row

SHAPE = {
    "layers": 4,
    "hidden": 256,
    "vocabulary": 50257,
    "positions": 512,
    "prompt_tokens": [32, 256],
    "response_tokens": [8, 64],
    "rows": 32,
    "batch_size": 16,
    "max_length": 512,
    "packing": False,
    "learning_rate": 1e-7,
    "precision": "32-true",
}
PACKED = {**SHAPE, "packing": True, "batch_size": 6}
"""Rows of 512 tokens hold 2.8 demonstrations on average."""

OURS = Contestant("ours", "ours_sft")
TRL = Contestant("TRL 1.16", "trl_sft", "trl-1.16")
BARE = Contestant("bare loop", "bare_sft")


def prepare(spec: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The model, the demonstrations, and the operations that an epoch needs at least."""
    names = ("layers", "hidden", "vocabulary", "positions")
    material.write_gpt2(folder / "model", **{name: spec[name] for name in names})
    rows = material.demonstrations(spec)
    material.write_rows(folder / "demonstrations.jsonl", rows)
    lengths = [len(row["prompt"]) + len(row["response"]) + 1 for row in rows]
    supervised = sum(len(row["response"]) + 1 for row in rows)
    forward = material.forward_flop(
        layers=spec["layers"],
        hidden=spec["hidden"],
        vocabulary=spec["vocabulary"],
        lengths=lengths,
        num_logits=supervised,
    )
    return {"model": str(folder / "model"), "data": str(folder / "demonstrations.jsonl"), "flop": 3 * forward}


ROWS = [
    Row(
        name="sft-padded",
        title="SFT, GPT-2 4 x 256, vocabulary 50257, prompts 32-256, responses 8-64, batch 16, loss on responses",
        spec=SHAPE,
        contestants=(OURS, TRL),
        work="supervised_tokens",
        bars=(Bar("speed", TRL.label, at_least=6), Bar("memory", TRL.label, at_most=0.4)),
        prepare=prepare,
        equal=("supervised_tokens", "tokens"),
        close={"loss": 1e-3},
        repeats=3,
    ),
    Row(
        name="sft-packed",
        title="the same, packed into rows of 512 tokens",
        spec=PACKED,
        contestants=(OURS, TRL),
        work="supervised_tokens",
        bars=(Bar("speed", TRL.label, at_least=2.5),),
        prepare=prepare,
        equal=("supervised_tokens", "tokens"),
        close={"loss": 1e-3},
        repeats=3,
    ),
]
