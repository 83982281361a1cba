"""`lightning-rlhf plan`."""

from lightning_rlhf.cli.plan.command import run

__all__ = ["run"]
