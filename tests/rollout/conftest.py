"""Tiny models, a character tokenizer and scorers for the tests of rollouts."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from lightning_rlhf.batches import PromptBatch, PromptDetails
from lightning_rlhf.models import ActorCritic, LoadedModel, RecordedTemplate, build_actor_critic
from lightning_rlhf.plugin_system.interfaces import RewardFunction
from lightning_rlhf.records import Message

VOCABULARY = 12
STOP = 1


def tiny_llama(seed: int = 0, *, vocabulary: int = VOCABULARY, positions: int = 64) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=positions,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=STOP,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def tiny_gpt2(seed: int = 0) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=64,
        initializer_range=0.4,
        bos_token_id=STOP,
        eos_token_id=STOP,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return GPT2LMHeadModel(config).eval()


class LetterFormatter:
    """A formatter whose tokens are letters: id 0 is `a`. Id 1 stops."""

    tokenizer = object()  # the same for all

    def __init__(self, prefix: str = "", stop: int = STOP) -> None:
        self.prefix = prefix
        self.stop_ids = (stop,)
        self.template = self
        self.record = RecordedTemplate("tests.LetterTemplate", {"prefix": prefix})

    def render(self, messages: Sequence[Message]) -> str:
        return self.prefix + "".join(message.content for message in messages)

    def _ids(self, text: str) -> list[int]:
        return [ord(letter) - ord("a") for letter in text]

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        return self._ids(self.render(messages))

    def encode_response(self, messages: Sequence[Message], response: str) -> list[int]:
        return [*self._ids(response), *self.stop_ids]

    def prefilled(self, prompt: str) -> str:
        return prompt[-1] if len(prompt) > 1 else ""

    def decode_response(self, ids: Sequence[int]) -> str:
        return "".join(chr(token + ord("a")) for token in ids if token not in self.stop_ids)

    def response_tokens(self, ids: Sequence[int]) -> list[str]:
        return ["<stop>" if token in self.stop_ids else chr(token + ord("a")) for token in ids]


class FunctionScorer(RewardFunction):
    """A reward function out of a plain one."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], **columns: Sequence[Any]) -> Any:
        return self.function(prompts, responses, **columns)


def prompt_batch(texts: Sequence[str], columns: Sequence[dict[str, Any]] | None = None) -> PromptBatch:
    formatter = LetterFormatter()
    messages = [(Message("user", text),) for text in texts]
    rows = [formatter.encode_prompt(turns) for turns in messages]
    width = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    details = PromptDetails(list(texts), list(messages), [dict(row) for row in columns or [{}] * len(texts)])
    return PromptBatch(ids, mask, torch.arange(len(rows)), details)


def tiny_actor_critic(model: PreTrainedModel | None = None, **options: Any) -> ActorCritic:
    loaded = LoadedModel(model or tiny_llama(), LetterFormatter(), "tiny", None)
    return build_actor_critic(loaded, **options).eval()


class Tiny:
    """What the tests build their examples from."""

    vocabulary = VOCABULARY
    stop = STOP
    llama = staticmethod(tiny_llama)
    gpt2 = staticmethod(tiny_gpt2)
    formatter = LetterFormatter
    prompts = staticmethod(prompt_batch)
    actor_critic = staticmethod(tiny_actor_critic)
    function_scorer = FunctionScorer


@pytest.fixture(scope="session")
def tiny() -> type[Tiny]:
    return Tiny


@pytest.fixture(params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """Rotary and learned positions."""
    return tiny_llama() if request.param == "llama" else tiny_gpt2()


@pytest.fixture
def prompts() -> PromptBatch:
    return prompt_batch(["cde", "fghijk", "c", "lkjihgfed", "efe", "dd"])
