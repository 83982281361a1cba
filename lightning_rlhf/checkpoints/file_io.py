"""Writing and removing checkpoint files for Lightning: each is whole or not there, and carries its checksum."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.plugins import AsyncCheckpointIO
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from lightning_rlhf.checkpoints.integrity import SealedFile
from lightning_rlhf.files import written_beside

__all__ = ["BackgroundIO", "WholeFileIO"]


class WholeFileIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, with a checksum, and renames it.

    Lightning's own writes to the machine's folder for temporary files. Where that is another disk, the file is copied
    to its place byte by byte, and a kill leaves half of it there.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Writes a file; what is no path of this machine is left to Lightning."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with written_beside(Path(path)) as part, part.open("wb") as file:
            sealed = SealedFile(file)
            try:
                torch.save(checkpoint, sealed)  # type: ignore[arg-type]
            except RuntimeError:
                if sealed.error is not None:
                    raise sealed.error from None
                raise
            sealed.seal()


class BackgroundIO(AsyncCheckpointIO):
    """Writes checkpoints in a thread, while training goes on: one after the other, with all that depends on them.

    Lightning's own removes the checkpoint before while the new one is still being written, and piles up copies of the
    state where the disk is slow.

    Args:
        checkpoint_io: what writes.
    """

    def __init__(self, checkpoint_io: CheckpointIO) -> None:
        super().__init__(checkpoint_io)
        self._io = checkpoint_io

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Writes the state as it is now; first waits until the one before is written, so that one copy is kept."""
        self.finish()
        state = apply_to_collection(checkpoint, Tensor, lambda tensor: tensor.detach().clone())
        self.then(partial(self._io.save_checkpoint, state, path, storage_options))

    def remove_checkpoint(self, path: _PATH) -> None:
        """Removes a file when those that were asked for before are written."""
        self.then(partial(self._io.remove_checkpoint, path))

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Loads a file when those that were asked for before are written."""
        self.finish()
        return super().load_checkpoint(*args, **kwargs)

    def then(self, action: Callable[[], object]) -> None:
        """Does something in the thread when all that was asked for before is done, unless some of it failed."""

        def act() -> None:
            try:
                if self._error is None:
                    action()
            except BaseException as error:
                self._error = error

        self._ensure_setup()
        assert self._executor is not None  # by the line before
        self._executor.submit(act)

    def finish(self) -> None:
        """Waits until all that was asked for is done.

        Raises:
            StorageError: some of it could not be; it is told once.
        """
        if self._executor is not None:
            self._executor.submit(lambda: None).result()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def teardown(self) -> None:
        """Waits, and ends the thread."""
        try:
            self.finish()
        finally:
            super().teardown()
