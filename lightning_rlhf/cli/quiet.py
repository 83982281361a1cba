"""Leaves out what Lightning says on every run that helps nobody here. What concerns the user's choice stays."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["without_noise"]

_WARNINGS = (
    r"The '\w+' does not have many workers",  # rows are tokenized beforehand: there is nothing for workers to do
    r"Consider setting `persistent_workers=True`",
    r"You defined a `validation_step` but have no `val_dataloader`",  # the data module says so, and why
    r"Checkpoint directory .* exists and is not empty",  # the root was checked: it is this run's
    # the modules' metrics are reduced over ranks before they are logged
    r"It is recommended to use `self.log\('(val|test)/.*sync_dist=True",
    # the writer of predictions knows them
    r"Couldn't infer the batch indices fetched from your dataloader",
    # an evaluation has no use for the callback that wrote the checkpoint
    r"Be aware that when using `ckpt_path`.* add the following callbacks: \[\"LastCheckpoint\{[^\]]*\}\"\]",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",  # inside Lightning, about PyTorch
)
_ADVERTISEMENT = "💡 Tip"
_LOGGER = "lightning.pytorch.utilities.rank_zero"


@contextmanager
def without_noise() -> Iterator[None]:
    """Inside, warnings that are wrong for this library's loaders and advertisements of services are left out."""
    logger = logging.getLogger(_LOGGER)
    logger.addFilter(_is_no_advertisement)
    try:
        with warnings.catch_warnings():
            # what Lightning calls in other packages is not the user's to change
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"lightning\.|jsonargparse\.")
            for message in _WARNINGS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logger.removeFilter(_is_no_advertisement)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_ADVERTISEMENT)
