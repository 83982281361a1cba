"""`lightning-rlhf doctor`."""

from lightning_rlhf.cli.doctor.command import run

__all__ = ["run"]
