"""Models and prompts of the PPO rows: random weights with a stop token of a given probability, or a real model."""

import gzip
import json
import math
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import material

_REAL = os.environ.get("LIGHTNING_RLHF_REAL_DATA")
_STORIES = "pretrain/tinystories_sample.txt.gz"
_PROBES = 64
_NEVER = 60.0
"""Nats under all other tokens together."""


def write_models(spec: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """`policy` (also the reference) and `scorer` (reward model, and what the value model starts from), with tokenizers.

    Of the special tokens EOS is sampled with the probability `stop_probability` (0: never) and the others never.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = _config(spec)
    torch.manual_seed(0)
    policy = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    eos = config.vocab_size - len(material.SPECIAL)
    _set_stop_probability(policy, spec["stop_probability"], eos)
    policy.save_pretrained(folder / "policy")
    config.num_labels = 1
    torch.manual_seed(1)
    AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).save_pretrained(folder / "scorer")
    for name in ("policy", "scorer"):
        material.write_tokenizer(folder / name, config.vocab_size)
    return {"policy": str(folder / "policy"), "scorer": str(folder / "scorer"), "stop_id": eos, "stop": None}


def write_prompts(spec: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Random text of `prompt_tokens` tokens: as rows for us, and as ids for those that take them so."""
    dice = random.Random(0)
    shortest, longest = spec["prompt_tokens"]
    prompts = [material.text(dice, dice.randint(shortest, longest), spec["vocabulary"]) for _ in range(spec["rows"])]
    return _written(folder, [(prompt, material.ids(prompt, spec["vocabulary"])) for prompt in prompts])


def real_models(folder: Path) -> dict[str, Any] | None:
    """Stories260k that stops at a full stop, and a reward model on it; None where there are no real data."""
    if _REAL is None:
        return None
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    name = str(Path(_REAL) / "models/stories260k")
    tokenizer = AutoTokenizer.from_pretrained(name)
    torch.manual_seed(1)
    scorer = AutoModelForSequenceClassification.from_pretrained(name, num_labels=1, dtype=torch.float32)
    scorer.save_pretrained(folder / "scorer")
    tokenizer.save_pretrained(folder / "scorer")
    stop_id = tokenizer.convert_tokens_to_ids(".")
    return {"policy": name, "scorer": str(folder / "scorer"), "stop_id": stop_id, "stop": "."}


def real_prompts(spec: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Beginnings of children's stories, cut at a random token."""
    from transformers import AutoTokenizer

    assert _REAL is not None
    tokenizer = AutoTokenizer.from_pretrained(Path(_REAL) / "models/stories260k")
    with gzip.open(Path(_REAL) / _STORIES, "rt", encoding="utf-8") as lines:
        stories = [line.strip() for line in lines if len(line) > 5 * spec["prompt_tokens"][1]]
    dice = random.Random(0)
    pairs = []
    while len(pairs) < spec["rows"]:
        length = dice.randint(*spec["prompt_tokens"])
        ids = tokenizer(dice.choice(stories))["input_ids"][:length]
        text = tokenizer.decode(ids, skip_special_tokens=True)
        if tokenizer(text)["input_ids"] == ids:  # cut where the text says the same
            pairs.append((text, ids))
    return _written(folder, pairs)


def episode_flop(spec: Mapping[str, Any]) -> float:
    """Operations that an iteration of equal lengths needs at least, for a GPT-2: nothing twice, nothing for padding."""
    episodes, prompt, response = spec["episodes"], spec["prompt_tokens"][1], spec["response_tokens"]
    lengths = [prompt + response] * episodes
    shape = {"layers": spec["layers"], "hidden": spec["hidden"], "vocabulary": spec["vocabulary"], "lengths": lengths}
    policy = material.forward_flop(**shape, num_logits=episodes * response)
    scalar = material.forward_flop(**shape, num_logits=0)
    rollout = 2 * policy + 2 * scalar  # sampling and reference, values and scores
    return rollout + 3 * spec["num_epochs"] * (policy + scalar)


def _config(spec: Mapping[str, Any]) -> Any:
    from transformers import GPT2Config, LlamaConfig

    eos = spec["vocabulary"] - len(material.SPECIAL)
    ids = {"bos_token_id": eos, "eos_token_id": eos, "pad_token_id": eos + 1}
    if spec["architecture"] == "gpt2":
        return GPT2Config(
            n_layer=spec["layers"],
            n_embd=spec["hidden"],
            n_head=spec["heads"],
            vocab_size=spec["vocabulary"],
            n_positions=spec["positions"],
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            summary_first_dropout=0.0,
            **ids,
        )
    return LlamaConfig(
        num_hidden_layers=spec["layers"],
        hidden_size=spec["hidden"],
        num_attention_heads=spec["heads"],
        num_key_value_heads=spec["key_value_heads"],
        intermediate_size=spec["intermediate"],
        vocab_size=spec["vocabulary"],
        max_position_embeddings=spec["positions"],
        tie_word_embeddings=True,
        **ids,
    )


def _set_stop_probability(policy: Any, probability: float, eos: int) -> None:
    """Gives EOS about this probability after any text, and the other special tokens none.

    The last component of the last hidden state is made positive everywhere, and the output rows of the special tokens
    read it alone.
    """
    import torch

    with torch.no_grad():
        embedding = policy.get_input_embeddings().weight  # the output layer too
        if hasattr(policy, "transformer"):
            policy.transformer.ln_f.weight[-1], policy.transformer.ln_f.bias[-1] = 0, 1
        else:  # no bias there: what all tokens bring along, and no block writes to, reaches the end
            embedding[:, -1] = 10 * embedding.std()
            for name, weight in policy.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    weight[-1] = 0
        torch.manual_seed(2)
        output = policy(torch.randint(eos, (4, _PROBES)), output_hidden_states=True)
        constant = output.hidden_states[-1][..., -1].mean()
        others = output.logits[..., :eos].logsumexp(-1).mean()
        wanted = others + math.log(probability / (1 - probability)) if probability else others - _NEVER
        for place in range(len(material.SPECIAL)):
            embedding[eos + place] = 0
            embedding[eos + place, -1] = (others - _NEVER if place else wanted) / constant


def _written(folder: Path, pairs: list[tuple[str, list[int]]]) -> dict[str, Any]:
    material.write_rows(folder / "prompts.jsonl", [{"prompt": text} for text, _ in pairs])
    (folder / "ids.json").write_text(json.dumps([ids for _, ids in pairs]))
    return {"prompts": str(folder / "prompts.jsonl"), "ids": str(folder / "ids.json")}
