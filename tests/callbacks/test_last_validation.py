"""A run that ends with weights that no validation has seen says so."""

import logging
from types import SimpleNamespace

import pytest

from lightning_rlhf.callbacks.last_validation import LastValidation


@pytest.mark.parametrize(
    ("validated", "enabled", "said"),
    [
        ([4], True, "ends after 6 steps without a validation. The last was after 4"),
        ([], True, "It has not validated at all"),
        ([4, 6], True, ""),
        ([], False, ""),
    ],
)
def test_it_tells_of_steps_behind_the_last_validation(validated, enabled, said, caplog):
    callback, trainer = LastValidation(), SimpleNamespace(global_step=0, sanity_checking=True, interrupted=False)
    trainer.enable_validation = enabled
    callback.on_validation_end(trainer, None)
    callback.on_train_start(trainer, None)
    trainer.sanity_checking = False
    for trainer.global_step in validated:
        callback.on_validation_end(trainer, None)
    trainer.global_step = 6
    with caplog.at_level(logging.INFO):
        callback.on_train_end(trainer, None)
    assert said in caplog.text
    assert bool(said) == bool(caplog.text)
