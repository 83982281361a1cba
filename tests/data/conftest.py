"""Small templates, tokenizers, sources and a module, so that the data layer is tested by itself."""

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast

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


TOKENIZERS: Mapping = {
    "byte-level": byte_tokenizer,
    "byte-level with its own bos": lambda: byte_tokenizer(bos=True),
    "metaspace, prefix always": metaspace_tokenizer,
    "metaspace, prefix first": lambda: metaspace_tokenizer("first"),
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
