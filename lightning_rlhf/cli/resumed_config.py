"""The config of a resumed run: what its call leaves out stays as the run has it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.cli import LightningArgumentParser

from lightning_rlhf.checkpoints.foreign import check_arguments

__all__ = ["CONFIG_IN_CHECKPOINT", "OF_ONE_CALL", "argument_names", "filled_in", "plain_config", "saved_config"]

CONFIG_IN_CHECKPOINT = "lightning_rlhf_config"
OF_ONE_CALL = ("ckpt_path", "config", "overwrite", "trainer.default_root_dir", "weights_only")
"""What says how a run is started, not what it does."""

_OF_THE_CALL = tuple(
    f"trainer.{name}" for name in ("callbacks", "logger", "plugins", "profiler", "strategy", "devices", "num_nodes")
)
"""What the run is watched by and where it runs. Each start has its own: a call that leaves them out wants none."""

_METADATA_OF_SHARDED = "meta.pt"
_COMPONENT = "class_path"


def saved_config(checkpoint: Path) -> dict[str, Any]:
    """The config that a checkpoint was trained with; empty where it has none or cannot be read, which loading it says.

    Args:
        checkpoint: a file, or the folder of a sharded one. Its tensors are not read.
    """
    file = checkpoint / _METADATA_OF_SHARDED if checkpoint.is_dir() else checkpoint
    try:
        text = torch.load(file, map_location="meta", mmap=True, weights_only=True).get(CONFIG_IN_CHECKPOINT)
        config = yaml.safe_load(text) if isinstance(text, str) else None
    except Exception:  # a damaged file raises anything; whoever loads it explains it
        return {}
    return config if isinstance(config, dict) else {}


def plain_config(parser: LightningArgumentParser, config: Any) -> dict[str, Any]:
    """A parsed config as YAML holds it."""
    text = parser.dump(config, skip_unset=False, skip_validation=True)
    return dict(yaml.safe_load(text) or {})


def filled_in(given: Mapping[str, Any], now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a call gives, with what it leaves out as the run has it; None where that is the same as the defaults.

    Lists and components of another class are taken or left whole. What watches the run and where it runs are the
    call's alone: callbacks, loggers, plugins, profiler, strategy, devices and nodes.

    Args:
        given: the arguments that the call gives, defaults left out.
        now: the same with the defaults.
        before: all arguments of the run that is resumed.

    Raises:
        ModelError: an argument that was left out names code that nobody here has asked for.
    """
    left_out = _left_out(given, now, before)
    if not left_out:
        return None
    check_arguments(left_out)
    return _merged(given, left_out)


def argument_names(given: Mapping[str, Any], name: str = "") -> Iterator[str]:
    """The dotted name of each argument that a call gives, and of what is above it."""
    for key, value in given.items():
        full = f"{name}.{key}" if name else str(key)
        yield full
        if isinstance(value, Mapping):
            yield from argument_names(value, full)
        elif isinstance(value, list):
            yield from argument_names({str(place): member for place, member in enumerate(value)}, full)


def _left_out(given: Mapping[str, Any], now: Mapping[str, Any], before: Mapping[str, Any], above: str = "") -> Any:
    found = {}
    for key, value in before.items():
        name = f"{above}.{key}" if above else str(key)
        if name in (*OF_ONE_CALL, *_OF_THE_CALL) or key not in now or (key not in given and now[key] == value):
            continue
        if key not in given:
            found[key] = value
        elif isinstance(given[key], Mapping) and isinstance(value, Mapping) and isinstance(now[key], Mapping):
            same_class = now[key].get(_COMPONENT) == value.get(_COMPONENT)
            if same_class and (inner := _left_out(given[key], now[key], value, name)):
                found[key] = inner
    return found


def _merged(given: Mapping[str, Any], left_out: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(given)
    for key, value in left_out.items():
        merged[key] = _merged(given[key], value) if key in given else value
    return merged
