"""Small templates, tokenizers, sources and a module, so that the data layer is tested by itself."""

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from lightning_rlhf.plugin_system.interfaces import DataSource, PromptTemplate, Segment
from lightning_rlhf.records import Message

CORPUS = ["the cat sat on the mat and the dog sat on the log", "User: hello there Assistant: hello to you"] * 4


class JoinedTemplate(PromptTemplate):
    """The contents after each other, without a stop string."""

    def render(self, messages: Sequence[Message]) -> list[Segment]:
        return [Segment(message.content, message.role == "assistant") for message in messages]


class MarkedTemplate(PromptTemplate):
    """Turn markers, a line break after each turn, and optionally the tokenizer's BOS."""

    stop = ("<|end|>",)

    def __init__(self, bos: str = "") -> None:
        self.bos = bos

    def render(self, messages: Sequence[Message]) -> list[Segment]:
        segments = [Segment(self.bos, False, control=True)]
        for message in messages:
            learned = message.role == "assistant"
            segments += [
                Segment(f"<|{message.role}|>", False, control=True),
                Segment(message.content, learned),
                Segment("<|end|>", learned, control=True),
                Segment("\n", False, control=True),
            ]
        return segments


class ListSource(DataSource):
    """Records per split from memory."""

    def __init__(self, train: Iterable = (), validation: Iterable = (), test: Iterable = ()) -> None:
        self.splits = {"train": list(train), "validation": list(validation), "test": list(test)}

    def load(self, split: str) -> list:
        return self.splits[split]


class TinyModule(L.LightningModule):
    """Records the batches that it sees, with a model of one weight."""

    recorded_template = None
    seed = 3

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list = []
        self.heldout: list = []

    def training_step(self, batch, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch)
        return self.weight * 1.0

    def validation_step(self, batch, batch_idx: int) -> None:
        self.heldout.append(batch)

    test_step = validation_step

    def predict_step(self, batch, batch_idx: int):
        return batch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def byte_tokenizer(
    *, pad: str | None = "<pad>", bos: bool = False, eos: str | None = "</s>"
) -> PreTrainedTokenizerFast:
    """Byte-level BPE with merges; with `bos` it writes one before every text by itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    specials = ["<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>", "<|system|>"]
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in specials])
    tokenizer.add_tokens(
        [AddedToken("<|end|>", special=False, normalized=False)]
    )  # some models' markers are not special
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token=eos, pad_token=pad)


def metaspace_tokenizer(scheme: str = "always") -> PreTrainedTokenizerFast:
    """Like SentencePiece: a dummy prefix before every text, and a BOS by itself."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme)])
    specials = ["<unk>", "<s>", "</s>", "<|end|>", "<|user|>", "<|assistant|>"]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=[*specials, *fallback], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


def prepending_tokenizer(lone: bool = False) -> PreTrainedTokenizerFast:
    """Like Llama 2's: a normalizer writes the dummy prefix, by itself or as one of several."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    specials = ["<unk>", "<s>", "</s>", "<|end|>", "<|user|>", "<|assistant|>"]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=[*specials, *fallback], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    if lone:  # then blanks are pieces of their own, and the prefix is the only thing to be seen of "▁"
        tokenizer.normalizer = normalizers.Prepend("▁")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


class PythonTokenizer(PreTrainedTokenizer):
    """Written in Python, with one token per letter and SentencePiece's dummy prefix.

    With `merges` a letter joins the blank before it, as in a vocabulary of words, and pieces depend on their neighbours
    where `merges` says so.
    """

    def __init__(self, merges: tuple[str, ...] = (), **kwargs) -> None:
        letters = [chr(code) for code in (*range(32, 127), *map(ord, "äé猫\n"))]
        pieces = ["<unk>", "<s>", "</s>", "▁", *letters, *(f"▁{letter}" for letter in letters), *merges]
        self._ids = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
        self._pieces = {index: piece for piece, index in self._ids.items()}
        self._merges = merges
        super().__init__(bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>", **kwargs)

    @property
    def vocab_size(self) -> int:
        return len(self._ids)

    def get_vocab(self) -> dict[str, int]:
        return {**self._ids, **self.added_tokens_encoder}

    def _tokenize(self, text: str, **kwargs) -> list[str]:
        pieces, rest = [], f"▁{text.replace(' ', '▁')}"
        while rest:
            known = [piece for piece in (*self._merges, rest[:2], rest[0]) if rest.startswith(piece)]
            piece = next((piece for piece in known if piece in self._ids), known[-1])
            pieces.append(piece)
            rest = rest[len(piece) :]
        return pieces

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids.get(token, 0)

    def _convert_id_to_token(self, index: int) -> str:
        return self._pieces[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens).replace("▁", " ").removeprefix(" ")


TOKENIZERS: Mapping = {
    "byte-level": byte_tokenizer,
    "byte-level with its own bos": lambda: byte_tokenizer(bos=True),
    "metaspace, prefix always": metaspace_tokenizer,
    "metaspace, prefix first": lambda: metaspace_tokenizer("first"),
    "a normalizer writes the prefix": prepending_tokenizer,
}


@pytest.fixture(scope="session")
def fakes() -> SimpleNamespace:
    return SimpleNamespace(
        JoinedTemplate=JoinedTemplate,
        MarkedTemplate=MarkedTemplate,
        ListSource=ListSource,
        TinyModule=TinyModule,
        byte_tokenizer=byte_tokenizer,
        metaspace_tokenizer=metaspace_tokenizer,
        prepending_tokenizer=prepending_tokenizer,
        PythonTokenizer=PythonTokenizer,
    )


@pytest.fixture(scope="session", params=TOKENIZERS, ids=str)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return TOKENIZERS[request.param]()


@pytest.fixture(scope="session")
def simple_tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def trainer(tmp_path):
    """Makes quiet CPU trainers."""

    def make(**kwargs) -> L.Trainer:
        defaults = {
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
            "max_epochs": 1,
        }
        return L.Trainer(**{**defaults, **kwargs})

    return make
