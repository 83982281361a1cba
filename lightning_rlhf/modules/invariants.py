"""What must hold before the first PPO update (Huang et al. 2024 call these the cheapest tests there are)."""

from torch import Tensor, nn

from lightning_rlhf.errors import ModelError
from lightning_rlhf.models import ActorCritic, ScalarHead

__all__ = ["assert_gradients", "assert_ratio_is_one", "assert_starts_at_reference", "tolerance"]

_RANDOMNESS = "Check the model for dropout or other randomness that eval mode does not turn off."


def tolerance(precision: str) -> float:
    """Nats per token by which two passes over the same tokens may differ.

    Half precision rounds differently when rows are cut into other batches.
    """
    return 1e-3 if precision.startswith(("32", "64")) else 0.5


def assert_starts_at_reference(kl: float, *, bound: float, reference: nn.Module | None, same_weights: bool) -> None:
    """The reference is frozen, and the policy starts as it.

    Args:
        kl: to the reference in the first rollout, nats per response.
        bound: how far from 0 rounding may take it.
        reference: the reference; None: the policy with its adapters off.
        same_weights: the reference was loaded from the policy's own base.

    Raises:
        ModelError: one of the two does not hold.
    """
    named = [] if reference is None else reference.named_parameters()
    trained = [name for name, weight in named if weight.requires_grad]
    if trained:
        raise ModelError(f"the reference must be frozen, got trained weights: {', '.join(trained[:3])}.")
    if same_weights and not abs(kl) <= bound:  # nan is caught too
        raise ModelError(
            f"the policy must start at the reference (KL 0), got a KL of {kl:.4f} nats per response. {_RANDOMNESS}"
        )


def assert_ratio_is_one(logprobs: Tensor, old_logprobs: Tensor, *, bound: float) -> None:
    """Rollout and update agree on every sampled token before the first step.

    Raises:
        ModelError: they do not.
    """
    difference = float((logprobs - old_logprobs).abs().max())
    if not difference <= bound:  # nan is caught too
        raise ModelError(
            "the log-probabilities of rollout and update must agree before the first step, got a difference of "
            f"{difference:.4f} nats. {_RANDOMNESS}"
        )


def assert_gradients(actor_critic: ActorCritic) -> None:
    """Policy, value model and value head each got a gradient.

    Raises:
        ModelError: one of them did not.
    """
    heads = [module for module in actor_critic.modules() if isinstance(module, ScalarHead)]
    in_heads = {id(parameter) for head in heads for parameter in head.parameters()}
    value = actor_critic.value_parameters()
    parts = {
        "policy": actor_critic.policy_parameters(),
        "value model": [parameter for parameter in value if id(parameter) not in in_heads],
        "value head": [parameter for parameter in value if id(parameter) in in_heads],
    }
    for name, parameters in parts.items():
        if parameters and all(parameter.grad is None for parameter in parameters):
            raise ModelError(
                f"the weights of the {name} must get a gradient in the first step, got none. "
                "Something froze them: check the model for adapters that were switched off."
            )
