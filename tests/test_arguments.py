"""The checks of arguments, and that every component and callback of the library makes them."""

import inspect
import math
import sys

import pytest

from lightning_rlhf.arguments import require_at_least, require_finite, require_share
from lightning_rlhf.builtins import converters, models, reward_functions, sources
from lightning_rlhf.callbacks import NonFiniteGuard
from lightning_rlhf.callbacks.collapse_watch import CollapseWatch
from lightning_rlhf.errors import ConfigError
from lightning_rlhf.models import LoRA
from lightning_rlhf.modules import AdaptiveKL
from lightning_rlhf.rollout import ScoreNormalizer

NEEDED = {
    sources.FileSource: {"path": "rows.jsonl"},
    sources.HubSource: {"name": "a/b"},
    reward_functions.RegexReward: {"pattern": "a"},
}


def classes():
    """Everything that a config can name, the stages aside."""
    of_kinds = [
        cls
        for module in (converters, models, reward_functions, sources)
        for name in module.__all__
        if inspect.isclass(cls := getattr(module, name))
    ]
    return [*of_kinds, NonFiniteGuard, CollapseWatch, LoRA, AdaptiveKL, ScoreNormalizer]


NUMBERS = [
    (cls, name)
    for cls in classes()
    for name, parameter in inspect.signature(cls).parameters.items()
    if "float" in str(parameter.annotation)
]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("cls", "name"), NUMBERS, ids=lambda value: getattr(value, "__name__", value))
def test_every_number_of_a_component_must_be_finite(cls, name, number):
    with pytest.raises(ConfigError, match=rf"{name}.* must be .*got {number}"):
        cls(**{**NEEDED.get(cls, {}), name: number})


def test_the_sweep_finds_the_numbers():
    assert {cls.__name__ for cls, _ in NUMBERS} >= {"LengthReward", "FileSource", "CollapseWatch", "LoRA", "AdaptiveKL"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "rank of LoRA must be at least 1, got 0."),
        (math.nan, "rank of LoRA must be a finite number, got nan."),
        ("8", "rank of LoRA must be a finite number, got '8'."),
        (None, "rank of LoRA must be a finite number, got None."),
    ],
)
def test_a_message_says_whose_argument_it_is(value, message):
    with pytest.raises(ConfigError) as refusal:
        require_at_least(1, of="LoRA", rank=value)
    assert str(refusal.value) == message


def test_an_integer_that_no_float_holds_is_named_without_its_digits():
    with pytest.raises(ConfigError, match=r"^gamma must be a finite number, got .{1,80}\.$"):
        require_share(gamma=10 ** (sys.get_int_max_str_digits() + 1))


def test_numbers_in_lists_and_mappings_are_found_by_their_place():
    with pytest.raises(ConfigError, match=r"^rewards\.1\.scale must be a finite number, got inf\.$"):
        require_finite({"kl_coef": 0.1, "name": "nan", "rewards": [{"scale": 1}, {"scale": math.inf}]})
