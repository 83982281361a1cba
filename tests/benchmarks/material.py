"""Models, tokenizer and rows that all contestants load: random weights and random text, the same at every run.

Every character of the tokenizer's alphabet is one token, so that a text of n characters is n tokens and two texts put
together are the tokens of both.
"""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_FIRST = 0x20000
"""The alphabet's first character: all from here on are of one kind, and no surrogate is among them."""

SPECIAL = ("<eos>", "<pad>", "<unk>")


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    """A tokenizer of one token per character; `<eos>`, `<pad>` and `<unk>` are the last three ids."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {chr(_FIRST + index): index for index in range(vocabulary - len(SPECIAL))}
    words |= {word: vocabulary - len(SPECIAL) + place for place, word in enumerate(SPECIAL)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>", model_max_length=10**9
    )
    tokenizer.save_pretrained(folder)


def write_gpt2(
    folder: Path, *, layers: int, hidden: int, vocabulary: int, positions: int, seed: int = 0, heads: int | None = None
) -> int:
    """A GPT-2 with random weights and no dropout, with its tokenizer; returns the number of its parameters.

    The weights are greater than at the start of training, so that the rows' losses differ and a wrong mask shows.
    """
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.utils import logging

    config = GPT2Config(
        n_layer=layers,
        n_embd=hidden,
        n_head=heads or max(hidden // 64, 1),
        vocab_size=vocabulary,
        n_positions=positions,
        initializer_range=0.08,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        summary_first_dropout=0.0,
        bos_token_id=vocabulary - len(SPECIAL),
        eos_token_id=vocabulary - len(SPECIAL),
        pad_token_id=vocabulary - len(SPECIAL) + 1,
        dtype="float32",
    )
    logging.disable_progress_bar()
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(config)
    model.save_pretrained(folder)
    write_tokenizer(folder, vocabulary)
    return sum(parameter.numel() for parameter in model.parameters())


def text(dice: random.Random, length: int, vocabulary: int) -> str:
    """Random characters: as many tokens."""
    return "".join(chr(_FIRST + dice.randrange(vocabulary - len(SPECIAL))) for _ in range(length))


def ids(characters: str, vocabulary: int, *, eos: bool = False) -> list[int]:
    """What the tokenizer makes of them, for contestants that have none."""
    found = [ord(character) - _FIRST for character in characters]
    return [*found, vocabulary - len(SPECIAL)] if eos else found


def demonstrations(spec: Mapping[str, Any], seed: int = 0) -> list[dict[str, str]]:
    """`prompt` and `response` of lengths drawn uniformly; the EOS that follows counts as the response's last token."""
    dice = random.Random(seed)
    return [
        {
            "prompt": text(dice, dice.randint(*spec["prompt_tokens"]), spec["vocabulary"]),
            "response": text(dice, dice.randint(*spec["response_tokens"]) - 1, spec["vocabulary"]),
        }
        for _ in range(spec["rows"])
    ]


def rankings(spec: Mapping[str, Any], seed: int = 0) -> list[dict[str, Any]]:
    """`prompt`, K `responses` (an EOS follows each) and their `ranks`, a random order without ties."""
    dice = random.Random(seed)
    rows = []
    for _ in range(spec["rows"]):
        prompt = text(dice, spec["prompt_tokens"], spec["vocabulary"])
        responses = [text(dice, spec["response_tokens"] - 1, spec["vocabulary"]) for _ in range(spec["candidates"])]
        ranks = list(range(spec["candidates"]))
        dice.shuffle(ranks)
        rows.append({"prompt": prompt, "responses": responses, "ranks": ranks})
    return rows


def comparisons(ranking: Mapping[str, Any]) -> list[dict[str, str]]:
    """All pairs of a ranking as `prompt`, `chosen`, `rejected`."""
    ordered = sorted(zip(ranking["ranks"], ranking["responses"], strict=True))
    return [
        {"prompt": ranking["prompt"], "chosen": chosen, "rejected": rejected}
        for place, (_, chosen) in enumerate(ordered)
        for _, rejected in ordered[place + 1 :]
    ]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """JSON lines."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def forward_flop(*, layers: int, hidden: int, vocabulary: int, lengths: Sequence[int], num_logits: int) -> float:
    """Floating-point operations of one forward pass that computes nothing twice and nothing for padding.

    Two per weight and token in the blocks, causal attention over `lengths`, and `num_logits` rows of logits.
    """
    tokens = sum(lengths)
    attention = sum(length * (length + 1) / 2 for length in lengths) * 4 * hidden * layers
    return 24 * layers * hidden**2 * tokens + attention + 2 * hidden * vocabulary * num_logits
