"""What models and their files need to know about a tokenizer."""

import json
import logging
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from lightning_rlhf.errors import ModelError, shown

__all__ = ["end_with_a_token", "require_sound", "scoring_pad_id", "stop_ids", "tokenizers_equal"]

_log = logging.getLogger(__name__)

_SPACE_MARKS = ("Ġ", "▁")
"""How byte-level and SentencePiece vocabularies write a leading space; rare as characters of a text."""


def tokenizers_equal(first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers give every text the same ids and end it with the same token.

    The padding token does not count: it stands in no text.
    """
    if first is second:
        return True
    if (first.eos_token_id, first.bos_token_id) != (second.eos_token_id, second.bos_token_id):
        return False
    return first.get_vocab() == second.get_vocab() and _rules(first) == _rules(second)


def end_with_a_token(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    """Gives a tokenizer without EOS the token that its model ends a text with, and says so.

    That is `eos_token_id` of the model's config where it is a token of the tokenizer, else the tokenizer's `[SEP]`. The
    Chinese GPT-2 family ends its documents with that one: their tokenizers are BERT's, which knows no EOS.

    Args:
        tokenizer: of the model; one that has an EOS stays as it is.
        config: of the model.
    """
    if tokenizer.eos_token_id is not None:
        return
    named: Any = getattr(config, "eos_token_id", None)
    first = named[0] if isinstance(named, list) and named else named
    is_token = isinstance(first, int) and 0 <= first < len(tokenizer)
    token: Any = tokenizer.convert_ids_to_tokens(first) if is_token else tokenizer.sep_token
    if token is None:
        return  # a template may bring its own stop token
    tokenizer.eos_token = token
    origin = "eos_token_id of the model's config" if is_token else "its [SEP]"
    _log.warning(
        "the tokenizer %r names no EOS; %s ends a response from now on: %r. Name another one as eos_token in "
        "tokenizer_config.json if the model ends its texts otherwise.",
        tokenizer.name_or_path,
        origin,
        token,
    )


def require_sound(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuses what the files of a tokenizer may hold and what fails only when it is used.

    Args:
        tokenizer: as transformers has loaded it.
        name: of its directory, for the message.

    Raises:
        ModelError: a setting is of another type than transformers takes it for, or a chat template is no Unicode text.
    """
    if not isinstance(tokenizer.model_max_length, int | float):
        raise ModelError(
            f"model_max_length in tokenizer_config.json of {name!r} must be a number, got "
            f"{shown(tokenizer.model_max_length)}."
        )
    given: Any = tokenizer.chat_template
    for template in given.values() if isinstance(given, dict) else [given]:
        try:
            text = "" if template is None else template
            text.encode("utf-8")
        except (AttributeError, UnicodeEncodeError) as error:
            raise ModelError(
                f"the chat template of {name!r} must be text that UTF-8 can write, got {shown(template)}: {error}."
            ) from error


def stop_ids(tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> tuple[int, ...]:
    """The EOS id and the id of each stop string that is exactly one token."""
    ids = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    for text in stop:
        encoded = tokenizer.encode(text, add_special_tokens=False)
        if len(encoded) == 1 and encoded[0] not in ids:
            ids.append(encoded[0])
    return tuple(ids)


def scoring_pad_id(tokenizer: PreTrainedTokenizerBase, stops: Sequence[int]) -> int:
    """A padding id that is no stop id.

    transformers' sequence-classification models read the last token that is not padding. With padding equal to EOS they
    would read the token before it.
    """
    special = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, *tokenizer.all_special_ids]
    for token_id in special:
        if token_id is not None and token_id not in stops:
            return int(token_id)
    # every special token ends a response (GPT-2): the last ordinary token that can hardly be typed as it is written
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: -item[1])
    ordinary = [(token, token_id) for token, token_id in vocabulary if token_id not in stops]
    marked = [token_id for token, token_id in ordinary if token.startswith(_SPACE_MARKS) and len(token) > 1]
    return int(marked[0] if marked else ordinary[0][1])


def _rules(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return {"class": type(tokenizer).__name__}
    rules: dict[str, Any] = json.loads(backend.to_str())
    return {part: rules.get(part) for part in ("normalizer", "pre_tokenizer", "post_processor", "model")}
