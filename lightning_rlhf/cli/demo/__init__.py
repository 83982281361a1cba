"""`lightning-rlhf demo`: the whole recipe on a laptop, offline."""

from lightning_rlhf.cli.demo.command import run

__all__ = ["run"]
