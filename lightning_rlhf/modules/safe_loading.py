"""Loading a module from a checkpoint that nobody has to trust."""

from pathlib import Path
from typing import IO, Any, Self

import lightning as L
from lightning.pytorch.utilities.model_helpers import _restricted_classmethod

from lightning_rlhf import registry
from lightning_rlhf.checkpoints.foreign import check_arguments, saved_arguments

__all__ = ["SafeLoading"]


class SafeLoading(L.LightningModule):
    """A module whose checkpoints run no code when it is loaded from them."""

    @_restricted_classmethod
    def load_from_checkpoint(
        cls,  # noqa: N805 - a classmethod that cannot be called on an instance
        checkpoint_path: str | Path | IO[bytes],
        map_location: Any = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = True,
        **kwargs: Any,
    ) -> Self:
        """As Lightning's, but the checkpoint runs no code: none is unpickled, and none imported because it says so.

        Args:
            checkpoint_path: path, URL or stream.
            map_location: where its tensors are put.
            hparams_file: arguments of the module, in place of those in the checkpoint.
            strict: whether every weight must be there.
            weights_only: False unpickles whatever it holds and believes its arguments: for your own checkpoints alone.
            **kwargs: arguments of the module that go before those in the checkpoint.

        Raises:
            ModelError: it would run code that nobody has asked for.
        """
        registry.deny_imports()
        weights_only = weights_only is not False  # Lightning takes None for False where the path is a URL
        if weights_only:
            saved = saved_arguments(checkpoint_path)
            made_by = check_arguments({name: value for name, value in saved.items() if name not in kwargs})
            kwargs |= made_by if hparams_file is None else {}
        return super().load_from_checkpoint(checkpoint_path, map_location, hparams_file, strict, weights_only, **kwargs)
