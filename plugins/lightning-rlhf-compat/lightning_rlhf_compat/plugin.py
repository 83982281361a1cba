"""What this package offers, by dotted name: listing it loads nothing heavy."""

from lightning_rlhf import Component, hookimpl

__all__ = ["rlhf_reward_functions"]

_PACKAGE = "lightning_rlhf_compat"


@hookimpl
def rlhf_reward_functions() -> list[Component]:
    """One component per library that reward functions were written for."""
    return [
        Component("trl", f"{_PACKAGE}.trl:TRLReward", "a reward function written for TRL, unchanged"),
        Component("trlx", f"{_PACKAGE}.trlx:TRLXReward", "a reward function written for trlX, unchanged"),
        Component(
            "openrlhf", f"{_PACKAGE}.openrlhf:OpenRLHFReward", "a reward function written for OpenRLHF, unchanged"
        ),
        Component("verl", f"{_PACKAGE}.verl:VerlReward", "a reward function written for verl, unchanged"),
    ]
