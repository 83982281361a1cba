"""Fixtures for the tests of plug-ins: `pytest_plugins = ["lightning_rlhf.testing.fixtures"]` in their conftest.py."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from lightning_rlhf.testing import stand_ins
from lightning_rlhf.testing.network import without_network

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from lightning_rlhf.models import LoadedModel

__all__ = ["byte_tokenizer", "no_network", "tiny_model"]


@pytest.fixture
def byte_tokenizer() -> "PreTrainedTokenizerFast":
    """A tokenizer that takes every text, with a chat template."""
    return stand_ins.byte_tokenizer()


@pytest.fixture
def tiny_model() -> "LoadedModel":
    """A random model with its tokenizer, as a run loads its `base`."""
    return stand_ins.tiny_model()


@pytest.fixture
def no_network() -> Iterator[list[str]]:
    """During the test no other machine can be reached; a list of the hosts that were asked for."""
    with without_network() as asked:
        yield asked
