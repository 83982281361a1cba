"""Models that a run never trains, when it is resumed: a reward model, a reference."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_rlhf.modules.base import RLHFModule

__all__ = ["frozen_names", "keep_frozen"]


def frozen_names(module: "RLHFModule") -> list[str]:
    """Names of the weights of the frozen models."""
    frozen = {id(network) for network in module.frozen_networks()}
    prefixes = tuple(f"{name}." for name, network in module.named_modules() if id(network) in frozen)
    return [
        name for name, _ in module.named_parameters(remove_duplicate=False) if prefixes and name.startswith(prefixes)
    ]


def keep_frozen(checkpoint: dict[str, Any], module: "RLHFModule") -> None:
    """Puts the frozen models as they were loaded from their files in the place of those in a checkpoint.

    A run that is resumed with another reward model is rewarded by that one.

    Args:
        checkpoint: about to be loaded; its weights are changed.
        module: not sharded; of one that is, the checkpoint's stay.
    """
    state = checkpoint.get("state_dict")
    if module.is_sharded or state is None:
        return
    frozen = {id(network) for network in module.frozen_networks()}
    prefixes = tuple(f"{name}." for name, network in module.named_modules() if id(network) in frozen)
    if not prefixes:
        return
    own = {name: weight for name, weight in module.state_dict().items() if name.startswith(prefixes)}
    for name in [name for name in state if name.startswith(prefixes)]:
        del state[name]
    state.update(own)
