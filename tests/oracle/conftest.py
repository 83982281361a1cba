"""Worlds so small that every response can be enumerated, and the optimum that PPO must find there.

`E[r] - kl_coef * KL(pi, pi_ref)` has its maximum at `pi_ref * exp(r / kl_coef) / Z`. What a run ends with is read from
the `model/` that it leaves, with transformers alone: nothing that the library computes judges itself.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lightning_rlhf.data import PromptData
from lightning_rlhf.models import LoRA
from lightning_rlhf.modules import PPOModule
from lightning_rlhf.plugin_system.interfaces import DataSource, ModelSource, RewardFunction
from lightning_rlhf.records import Prompt

_HERE = Path(__file__).parent

START, STOP, A, B = range(4)
TOKENS = ("<s>", "</s>", "a", "b")
MAX_RESPONSE_LENGTH = 3
PROMPTS = {"a": (START, A), "bb": (START, B, B)}
"""Of unequal length, so that one of them is padded; no prompt and response read like the other prompt's."""

Outcome = tuple[int, ...]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            # lightning's use of torch
            item.add_marker(pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.:FutureWarning"))


def _all_outcomes() -> list[Outcome]:
    """Every response: those that stop, and those that are cut at the maximal length."""
    going_on = (START, A, B)
    stopped = [
        (*tokens, STOP)
        for length in range(MAX_RESPONSE_LENGTH)
        for tokens in itertools.product(going_on, repeat=length)
    ]
    return stopped + list(itertools.product(going_on, repeat=MAX_RESPONSE_LENGTH))


OUTCOMES = _all_outcomes()


def _arbitrary(outcome: Outcome) -> float:
    """A number from -1 to 1 that the neighbours of a response say nothing about."""
    return (OUTCOMES.index(outcome) * 0.6180339887 % 1) * 2 - 1


SCORES: dict[str, Callable[[Outcome], float]] = {
    "letters": lambda outcome: float(outcome.count(A)),
    "one_letter": lambda outcome: float(len(outcome) == 2 and outcome[-1] == STOP),
    "arbitrary": _arbitrary,
}


class Scored(RewardFunction):
    """What the table says of the sampled tokens; the text, in which START does not show, is not looked at.

    Args:
        name: of the table.
        per_token: a letter's share of the score at the letter.
    """

    def __init__(self, name: str, per_token: bool = False) -> None:
        self.name, self.per_token = name, per_token

    def __call__(self, prompts: Any, responses: Any, *, response_tokens: Any, **columns: Any) -> list[Any]:
        outcomes = [tuple(TOKENS.index(token) for token in tokens) for tokens in response_tokens]
        if self.per_token:
            assert self.name == "letters"
            return [[float(token == A) for token in outcome] for outcome in outcomes]
        return [SCORES[self.name](outcome) for outcome in outcomes]


class World(ModelSource):
    """A transformer over four tokens, large enough for any distribution over the responses; no padding token."""

    def load(self) -> Any:
        backend = Tokenizer(models.WordLevel({token: index for index, token in enumerate(TOKENS)}, unk_token="b"))
        backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        backend.decoder = decoders.Fuse()
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", START)])
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
        )
        config = LlamaConfig(
            vocab_size=len(TOKENS),
            hidden_size=32,
            intermediate_size=128,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=16,
            bos_token_id=START,
            eos_token_id=STOP,
            initializer_range=0.15,  # inner features that tell the contexts apart
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = LlamaForCausalLM._from_config(config, dtype=torch.float32)
        with torch.no_grad():
            model.lm_head.weight.mul_(2 / 3)  # and a reference that leaves every response a chance
        return model.eval(), tokenizer


class Prompts(DataSource):
    """The two prompts."""

    def load(self, split: str) -> list[Prompt]:
        return [Prompt(text) for text in PROMPTS] if split == "train" else []


@torch.no_grad()
def distribution(model: Any, prompt: Outcome, temperature: float) -> Tensor:
    """The exact probability of every response, in float64, each row by itself: nothing is padded."""
    logprobs = []
    for outcome in OUTCOMES:
        ids = torch.tensor([[*prompt, *outcome]])
        logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].double()
        logprobs.append(torch.log_softmax(logits / temperature, -1).gather(1, ids[0, len(prompt) :, None]).sum())
    return torch.stack(logprobs).exp()


def optimum(reference: Tensor, name: str, kl_coef: float) -> Tensor:
    """`pi_ref * exp(r / kl_coef) / Z`."""
    scores = torch.tensor([SCORES[name](outcome) for outcome in OUTCOMES], dtype=torch.float64)
    tilted = reference * (scores / kl_coef).exp()
    return tilted / tilted.sum()


@dataclass(frozen=True)
class Distances:
    """Total variation to the optimum: per prompt, before and after the run."""

    start: list[float]
    end: list[float]


class Oracle:
    """Runs PPO in a small world and measures how far from the optimum it ends."""

    OUTCOMES, PROMPTS, LoRA, World = OUTCOMES, PROMPTS, LoRA, World
    distribution = staticmethod(distribution)

    @staticmethod
    def distances(
        path: Path,
        scores: str = "one_letter",
        kl_coef: float = 0.5,
        *,
        precision: Any = "32-true",
        per_token: bool = False,
        num_iterations: int = 60,
        num_responses: int = 256,
        **options: Any,
    ) -> Distances:
        """A whole run of PPO.

        Args:
            path: where it may write.
            scores: which responses are good.
            kl_coef: coefficient of the KL penalty.
            precision: the Trainer's.
            per_token: scores stand at their tokens.
            num_iterations: rollouts.
            num_responses: to each prompt, in a rollout.
            options: arguments of PPOModule.
        """
        L.seed_everything(1, verbose=False)
        defaults: Mapping[str, Any] = {
            "learning_rate": 4e-3 if "adapter" in options else 2e-3,
            "value_learning_rate": 1e-2,
            "value_coef": 1.0,
            "value_clip_range": 100.0,  # values may go where the returns are
            "num_epochs": 2,
            "minibatch_size": 256,
            "temperature": 1.0,
        }
        options = {**defaults, **options}
        module = PPOModule(
            World(),
            rewards=[Scored(scores, per_token)],
            kl_coef=kl_coef,
            rollout_size=len(PROMPTS),
            num_responses_per_prompt=num_responses,
            max_response_length=MAX_RESPONSE_LENGTH,
            gamma=1.0,
            lr_schedule="linear",
            missing_stop_penalty=0.0,
            **options,
        )
        trainer = L.Trainer(
            default_root_dir=path,
            max_epochs=num_iterations,
            accelerator="cpu",
            precision=precision,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, PromptData(Prompts(), batch_size=len(PROMPTS) * num_responses))
        return Oracle.measured(path / "model", scores, kl_coef, options["temperature"], precision)

    @staticmethod
    def measured(path: Path, scores: str, kl_coef: float, temperature: float, precision: Any) -> Distances:
        """How far the reference and the model in a folder are from the optimum."""
        reference, _ = World().load()
        trained = AutoModelForCausalLM.from_pretrained(path)
        start, end = [], []
        for prompt in PROMPTS.values():
            before = distribution(reference, prompt, temperature)
            best = optimum(before, scores, kl_coef)
            start.append(_total_variation(before, best))
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
                end.append(_total_variation(distribution(trained, prompt, temperature), best))
        return Distances(start, end)


def _total_variation(p: Tensor, q: Tensor) -> float:
    return float((p - q).abs().sum() / 2)


@pytest.fixture
def oracle() -> type[Oracle]:
    return Oracle
