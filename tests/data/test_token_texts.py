import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lightning_rlhf.builtins.models import TinyModel
from lightning_rlhf.data.encoding import PieceEncoder
from lightning_rlhf.data.token_texts import TokenTexts

TEXT = "今天 hi 😀é\ufffd!"


def byte_fallback():
    """As SentencePiece writes what it has no piece for."""
    pieces = [*(f"<0x{byte:02X}>" for byte in range(256)), "<unk>", "▁", "h", "i", "!"]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def straddling():
    """Byte-level BPE, one token of which ends in the middle of a character: `今` and a third of `天`."""
    names = dict(zip("今天".encode(), "ä»Ĭå¤©", strict=True))
    first, second, third, fourth = "ä»", "Ĭå", "ä»Ĭå", "¤©"
    assert names["今".encode()[0]] == first[0]
    vocabulary = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary += [first, second, third, fourth]
    tokenizer = Tokenizer(
        models.BPE(
            {piece: place for place, piece in enumerate(vocabulary)},
            [("ä", "»"), ("Ĭ", "å"), ("ä»", "Ĭå"), ("¤", "©")],
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def texts_of(tokenizer, text=TEXT):
    encoder = PieceEncoder(tokenizer)
    return TokenTexts(encoder), encoder.encode(text, control=False, first=False)


@pytest.mark.parametrize("make", [byte_fallback, straddling, lambda: TinyModel().load()[1]])
def test_neighbours_that_make_a_character_together_are_shown_as_it(make):
    texts, ids = texts_of(make())
    parts = texts.joined(ids)
    assert "".join(part.text for part in parts) == TEXT
    assert sum(part.num_tokens for part in parts) == len(ids)
    assert ("😀", 4) in parts
    assert ("h", 1) in parts


def test_a_token_that_ends_in_the_middle_of_a_character_is_shown_with_the_rest_of_it():
    texts, ids = texts_of(straddling(), "今天!")
    assert texts.joined(ids) == [("今天", 2), ("!", 1)]
    assert [texts.of(index) for index in ids] == ["今<0xE5>", "<0xA4><0xA9>", "!"]


@pytest.mark.parametrize("make", [byte_fallback, lambda: TinyModel().load()[1]])
def test_bytes_that_are_no_character_are_named_and_spoil_nothing_after_them(make):
    texts, (one, two, three, *rest) = texts_of(make(), "今天")
    assert [part.text for part in texts.joined([two, one, one, two, three, *rest, one, two])] == [
        "<0xBB>",
        "<0xE4>",
        "今",
        "天",
        "<0xE4>",
        "<0xBB>",
    ]
    assert [texts.of(index) for index in (one, two, three)] == ["<0xE4>", "<0xBB>", "<0x8A>"]
