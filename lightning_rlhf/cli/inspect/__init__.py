"""`lightning-rlhf inspect`."""

from lightning_rlhf.cli.inspect.command import run

__all__ = ["run"]
