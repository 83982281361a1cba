"""A file of many demonstrations in invented words, and a byte-pair tokenizer that has learned from some of them."""

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import material

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_NUM_WORDS = 3000
_LEARNED_FROM = 2000


def write_model(spec: Mapping[str, Any], folder: Path) -> str:
    """A GPT-2 with a tokenizer that cuts words into pieces, as those of real models do; returns its folder."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    names = ("layers", "hidden", "heads", "vocabulary", "positions")
    material.write_gpt2(folder, **{name: spec[name] for name in names})
    pieces = ByteLevelBPETokenizer()
    texts = (f"{row['prompt']} {row['response']}" for row in demonstrations(spec, _LEARNED_FROM))
    pieces.train_from_iterator(
        texts, vocab_size=spec["vocabulary"] - 1, special_tokens=["<eos>"], min_frequency=1, show_progress=False
    )
    PreTrainedTokenizerFast(tokenizer_object=pieces._tokenizer, eos_token="<eos>").save_pretrained(folder)
    return str(folder)


def write_demonstrations(spec: Mapping[str, Any], path: Path, num_rows: int) -> str:
    """JSON lines, written one after the other; returns the file's name."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in demonstrations(spec, num_rows))
    return str(path)


def demonstrations(spec: Mapping[str, Any], num_rows: int) -> Iterator[dict[str, str]]:
    """Rows of `prompt_words` and `response_words` words; the first rows of a longer file are those of a shorter one."""
    dice = random.Random(0)
    words = ["".join(dice.choices(_LETTERS, k=2 + place % 9)) for place in range(_NUM_WORDS)]
    for _ in range(num_rows):
        yield {
            name: " ".join(dice.choices(words, k=dice.randint(*spec[f"{name}_words"])))
            for name in ("prompt", "response")
        }
