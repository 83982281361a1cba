"""Tokenizers and a model that need no download."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from lightning_rlhf.models import LoadedModel

__all__ = ["byte_tokenizer", "tiny_model", "word_tokenizer"]

_PAD, _BOS, _EOS, _UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}</s>{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def byte_tokenizer(markers: Sequence[str] = (), *, bos: bool = False) -> "PreTrainedTokenizerFast":
    """One token a byte, so that every text can be encoded and decoded; with a chat template.

    Args:
        markers: special tokens beside `<s>`, `</s>` and `<pad>`.
        bos: it puts `<s>` before every text by itself, as Llama's do.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([_PAD, _BOS, _EOS, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{_BOS} $A", special_tokens=[(_BOS, vocabulary[_BOS])]
        )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        bos_token=_BOS,
        eos_token=_EOS,
        pad_token=_PAD,
        additional_special_tokens=list(dict.fromkeys(markers)),
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def word_tokenizer(texts: Sequence[str], markers: Sequence[str] = ()) -> "PreTrainedTokenizerFast":
    """One token a word, a space before it counting to it, so that ids can be read; others are `<unk>`.

    Args:
        texts: whose words it knows.
        markers: special tokens beside `<s>`, `</s>`, `<pad>` and `<unk>`.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    splitter = pre_tokenizers.Split(Regex(r" ?\w+| ?[^\w\s]+|\s+"), "isolated")
    words = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text)})
    vocabulary = {token: index for index, token in enumerate([_PAD, _BOS, _EOS, _UNKNOWN, *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=_UNKNOWN))
    backend.pre_tokenizer = splitter
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        bos_token=_BOS,
        eos_token=_EOS,
        pad_token=_PAD,
        unk_token=_UNKNOWN,
        additional_special_tokens=list(dict.fromkeys(markers)),
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def tiny_model(seed: int = 0) -> "LoadedModel":
    """A random model of a few thousand weights with its own byte tokenizer, as a run loads its `base`."""
    from lightning_rlhf.builtins.models import TinyModel
    from lightning_rlhf.models import load_base

    return load_base(TinyModel(hidden_size=16, num_layers=1, num_heads=2, max_positions=256, seed=seed))
