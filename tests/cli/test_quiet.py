import logging
import warnings

import pytest

from lightning_rlhf.cli.quiet import without_noise


def test_what_concerns_the_users_choice_is_still_said():
    with without_noise(), pytest.warns(UserWarning, match="max_epochs"):
        warnings.warn("`max_epochs` was not set.", stacklevel=1)


def test_what_is_wrong_for_these_loaders_is_left_out(recwarn):
    with without_noise():
        warnings.warn("The 'train_dataloader' does not have many workers which may be a bottleneck.", stacklevel=1)
    assert not recwarn


def test_advertisements_are_left_out_only_inside(caplog):
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with caplog.at_level(logging.INFO), without_noise():
        logger.info("💡 Tip: buy this")
        logger.info("GPU available: False")
    logger.info("💡 Tip: buy this")
    assert [record.getMessage() for record in caplog.records][:1] == ["GPU available: False"]
