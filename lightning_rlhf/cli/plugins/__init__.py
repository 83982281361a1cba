"""`lightning-rlhf plugins`: what is installed, whether it works, what it offers, and the start of a new one."""

from lightning_rlhf.cli.plugins.command import run

__all__ = ["run"]
