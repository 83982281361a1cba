"""Runs contracts on components as pytest would, and collects what they find."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lightning_rlhf.testing.contract import Contract


@pytest.fixture
def faults() -> Iterator[Callable[..., dict[str, str]]]:
    """`faults(contract, component, **attributes)`: what each failing test of a contract says, by the test's name."""

    def find(contract: type[Contract[Any]], component: str | type[Any], **attributes: Any) -> dict[str, str]:
        tested = type("TestIt", (contract,), {"component": component, **attributes})
        found = {}
        for name in tested.checks():
            try:
                getattr(tested(), name)()
            except AssertionError as error:
                found[name] = str(error)
        return found

    return find
