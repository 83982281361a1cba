"""The models that PPO trains and compares: policy, value model and reference, in three arrangements."""

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_rlhf.batches import TokenBatch
from lightning_rlhf.errors import ConfigError
from lightning_rlhf.models.adapters import (
    LoRA,
    activate_adapter,
    active_adapter,
    adapter_parameters,
    add_adapter,
    base_fingerprint,
    load_adapter_state_dict,
    using_adapter,
    without_adapters,
)
from lightning_rlhf.models.dropout import disable_dropout
from lightning_rlhf.models.language_model import LanguageModel
from lightning_rlhf.models.loading import LoadedModel
from lightning_rlhf.models.scalar_model import LoadedScalarModel, ScalarHead, ScalarModel
from lightning_rlhf.models.tokenizers import tokenizers_equal

__all__ = [
    "ActorCritic",
    "AdapterActorCritic",
    "PolicyPass",
    "SeparateActorCritic",
    "SharedActorCritic",
    "build_actor_critic",
]

_log = logging.getLogger(__name__)

POLICY = "policy"
VALUE = "value"


class PolicyPass(NamedTuple):
    """What the policy says at the kept positions, and the way to the values there."""

    logits: Tensor
    """`(N, V)`."""
    values: Callable[[], Tensor]
    """Gives `(N,)` in fp32; where the values take a pass of their own, it is made when they are asked for."""


class ActorCritic(nn.Module, ABC):
    """Policy, value model and reference.

    All take `(B, T)` rows and a bool `(B, T)` mask that is True at the N positions to read; results are in row-major
    order.

    Args:
        policy: the language model that is trained.
        reference: the frozen language model of the KL; None: the policy with its adapters off.
    """

    has_small_gradients: ClassVar[bool] = False
    """Whether the policy's gradients take so little that they may be kept while the values are computed."""

    def __init__(self, policy: LanguageModel, reference: LanguageModel | None) -> None:
        super().__init__()
        if reference is None and active_adapter(policy.model) is None:
            raise ConfigError("a policy without adapters must have a reference of its own, got None.")
        self.policy = policy
        self.reference = None if reference is None else reference.requires_grad_(False).eval()
        for model in (policy, reference):
            if model is not None:
                disable_dropout(model)

    @abstractmethod
    def values(self, tokens: TokenBatch, keep: Tensor) -> Tensor:
        """Values `(N,)` in fp32."""

    @abstractmethod
    def policy_parameters(self) -> list[nn.Parameter]:
        """The trained weights that move the policy."""

    @abstractmethod
    def value_parameters(self) -> list[nn.Parameter]:
        """The trained weights that move the values alone; disjoint from the policy's."""

    def logits(self, tokens: TokenBatch, keep: Tensor) -> Tensor:
        """Logits of the policy `(N, V)`."""
        logits: Tensor = self.policy(tokens, keep).logits
        return logits

    def policy_pass(self, tokens: TokenBatch, keep: Tensor) -> PolicyPass:
        """Logits, and values when they are asked for, with as few passes as the arrangement allows."""
        return PolicyPass(self.logits(tokens, keep), partial(self.values, tokens, keep))

    def logits_and_values(self, tokens: TokenBatch, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the policy `(N, V)` and values `(N,)`, with as few passes as the arrangement allows."""
        logits, values = self.policy_pass(tokens, keep)
        return logits, values()

    @torch.no_grad()
    def reference_logits(self, tokens: TokenBatch, keep: Tensor) -> Tensor:
        """Logits of the reference `(N, V)`, without gradient."""
        with self._reference() as reference:
            logits: Tensor = reference(tokens, keep).logits
        return logits

    @property
    def generation_model(self) -> PreTrainedModel:
        """The policy as transformers knows it: takes a key-value cache, and generates."""
        return self.policy.model

    def networks(self) -> list[nn.Module]:
        """The models that hold weights, each once."""
        return list(self.children())

    def policy_for_export(self) -> PreTrainedModel:
        """What `save_language_model` writes."""
        return self.policy.model

    @contextmanager
    def _reference(self) -> Iterator[LanguageModel]:
        if self.reference is not None:
            yield self.reference
        else:
            with without_adapters(self.policy):
                yield self.policy


class SeparateActorCritic(ActorCritic):
    """A value model with a transformer of its own.

    Args:
        policy: the language model that is trained.
        value_model: the value model, trained.
        reference: the frozen language model of the KL; None: the policy with its adapters off.
    """

    def __init__(self, policy: LanguageModel, value_model: ScalarModel, reference: LanguageModel | None) -> None:
        super().__init__(policy, reference)
        self.value_model = value_model

    def values(self, tokens: TokenBatch, keep: Tensor) -> Tensor:
        """Values `(N,)` in fp32."""
        values: Tensor = self.value_model(tokens, keep)
        return values

    def policy_parameters(self) -> list[nn.Parameter]:
        """The language model's trained weights."""
        return _trained(self.policy)

    def value_parameters(self) -> list[nn.Parameter]:
        """The value model's trained weights."""
        return _trained(self.value_model)


class SharedActorCritic(ActorCritic):
    """A value head on the policy's own transformer: both come out of one pass.

    Args:
        policy: the language model that is trained, by the value loss as well.
        reference: the frozen language model of the KL; None: the policy with its adapters off.
    """

    def __init__(self, policy: LanguageModel, reference: LanguageModel | None) -> None:
        super().__init__(policy, reference)
        self.value_head = ScalarHead(policy.hidden_size, zero=True)

    def policy_pass(self, tokens: TokenBatch, keep: Tensor) -> PolicyPass:
        """One pass in all."""
        output = self.policy(tokens, keep)
        values: Tensor = self.value_head(output.hidden)
        return PolicyPass(output.logits, lambda: values)

    def values(self, tokens: TokenBatch, keep: Tensor) -> Tensor:
        """Values `(N,)` in fp32."""
        values: Tensor = self.value_head(self.policy(tokens, keep, project=False).hidden)
        return values

    def policy_parameters(self) -> list[nn.Parameter]:
        """The language model's trained weights, which the value loss moves too."""
        return _trained(self.policy)

    def value_parameters(self) -> list[nn.Parameter]:
        """The head's weights."""
        return _trained(self.value_head)


class AdapterActorCritic(ActorCritic):
    """One frozen transformer with an adapter for the policy and one for the values.

    Without adapters it is the reference. Between calls the policy's adapter is the active one.

    Args:
        policy: the language model with the adapters `policy` and `value`.
        value_head: reads the values under the adapter `value`.
        reference: another reference than the model without adapters.
    """

    has_small_gradients = True

    def __init__(self, policy: LanguageModel, value_head: ScalarHead, reference: LanguageModel | None = None) -> None:
        super().__init__(policy, reference)
        self.value_head = value_head

    def values(self, tokens: TokenBatch, keep: Tensor) -> Tensor:
        """Values `(N,)` in fp32."""
        with using_adapter(self.policy, VALUE):
            hidden = self.policy(tokens, keep, project=False).hidden
        values: Tensor = self.value_head(hidden)
        return values

    def policy_parameters(self) -> list[nn.Parameter]:
        """The policy adapter's weights."""
        return adapter_parameters(self.policy, POLICY)

    def value_parameters(self) -> list[nn.Parameter]:
        """The value adapter's weights and the head's."""
        return [*adapter_parameters(self.policy, VALUE), *_trained(self.value_head)]


def build_actor_critic(
    policy: LoadedModel,
    *,
    reference: LoadedModel | None = None,
    reward_model: LoadedScalarModel | None = None,
    value_model: Literal["separate", "shared"] = "separate",
    adapter: LoRA | None = None,
    seed: int = 0,
) -> ActorCritic:
    """Arranges the models of a PPO run.

    A separate value model starts from the reward model when their tokenizers are equal, else from the policy's base
    with a zero head; a shared trunk starts with a zero head. With LoRA the value adapter starts from the reward model's
    adapter and head when that was trained on this same base, else from zero.

    Args:
        policy: the base; its model is taken over and trained.
        reference: another reference than the base.
        reward_model: the first reward model; it is copied, never taken over.
        value_model: a value model of its own, or a head on the policy's trunk.
        adapter: LoRA settings, or None to train all weights.
        seed: of the adapters.

    Raises:
        ConfigError: a reference with another tokenizer, or adapters with dropout.
    """
    disable_dropout(policy.model)
    given = _given_reference(policy, reference)
    if adapter is not None:
        if adapter.dropout:
            raise ConfigError(
                f"dropout of LoRA must be 0 in PPO, got {adapter.dropout}: sampled and scored probabilities would "
                "differ."
            )
        add_adapter(policy.model, adapter, name=POLICY, seed=seed)
        if value_model == "shared":
            return SharedActorCritic(LanguageModel(policy.model), given)
        return AdapterActorCritic(
            LanguageModel(policy.model), _add_value_adapter(policy, reward_model, adapter, seed), given
        )
    frozen = given if given is not None else LanguageModel(copy.deepcopy(policy.model))
    if value_model == "shared":
        return SharedActorCritic(LanguageModel(policy.model), frozen)
    return SeparateActorCritic(LanguageModel(policy.model), _separate_value_model(policy, reward_model), frozen)


def _given_reference(policy: LoadedModel, reference: LoadedModel | None) -> LanguageModel | None:
    if reference is None:
        return None
    if not tokenizers_equal(policy.tokenizer, reference.tokenizer):
        raise ConfigError(
            f"reference must have the tokenizer of base ({policy.name!r}), got {reference.name!r} with another: the KL "
            "compares the probabilities of the same tokens."
        )
    return LanguageModel(reference.model)


def _separate_value_model(policy: LoadedModel, reward_model: LoadedScalarModel | None) -> ScalarModel:
    if reward_model is not None and tokenizers_equal(policy.tokenizer, reward_model.tokenizer):
        return copy.deepcopy(reward_model.model).requires_grad_(True)
    if reward_model is not None:
        _log.warning(
            "the value model starts from the base with a zero head: reward model %r has another tokenizer.",
            reward_model.name,
        )
    copied = policy._replace(model=copy.deepcopy(policy.model))
    return ScalarModel.from_language_model(copied, zero_head=True)


def _add_value_adapter(
    policy: LoadedModel, reward_model: LoadedScalarModel | None, adapter: LoRA, seed: int
) -> ScalarHead:
    """Adds the adapter `value` beside the active one, and gives its head."""
    model = policy.model
    head = ScalarHead(LanguageModel(model).hidden_size, zero=True)
    files = None if reward_model is None else reward_model.adapter
    fits = files is not None and files.base_fingerprint == base_fingerprint(model)
    if reward_model is not None and files is not None and fits:
        add_adapter(model, files.config, name=VALUE, seed=seed)
        load_adapter_state_dict(model, VALUE, files.tensors)
        head.load_state_dict(reward_model.model.head.state_dict())
    else:
        if reward_model is not None:
            _log.warning(
                "the value adapter starts from zero: reward model %r was not trained as an adapter on this base (%s).",
                reward_model.name,
                policy.name,
            )
        add_adapter(model, adapter, name=VALUE, seed=seed + 1)
    activate_adapter(model, POLICY)
    return head


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
