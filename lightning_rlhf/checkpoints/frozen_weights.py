"""Frozen weights that can be had again: checkpoints leave them out and keep their checksums."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import xxhash
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from lightning_rlhf.errors import ModelError
from lightning_rlhf.models.origin import origin

__all__ = ["LEFT_OUT", "FrozenWeights"]

LEFT_OUT = "frozen_weights"
"""The key of this library's record in a checkpoint."""

_STATES = ("state_dict", "current_model_state")
"""Where Lightning's checkpoints hold the module's weights; the second with a callback that averages them."""
_NUM_SAMPLED = 64


class FrozenWeights:
    """The frozen weights of a module as they were loaded.

    A weight is left out of a checkpoint if it is not trained, comes from files or from a component that gives the same
    again, and has not changed since. Whatever else is frozen stays in, and all of it where weights are sharded.

    Args:
        module: with all its models, as they were loaded.
    """

    def __init__(self, module: nn.Module) -> None:
        self._origins = dict(_with_origin(module))
        weights = dict(module.named_parameters(remove_duplicate=False))
        self._samples = {name: _sample(weights[name]) for name in self._origins}
        self._sums: dict[str, str] = {}
        self._changed: set[str] = set()

    def sum_up(self, module: nn.Module) -> None:
        """Computes the checksums, once; before the weights are sharded, moved or rounded."""
        weights = dict(module.named_parameters(remove_duplicate=False))
        for name in [name for name in self._origins if name not in self._sums and not _is_sharded(weights[name])]:
            if self._is_unchanged(name, weights[name]):
                self._sums[name] = _checksum(weights[name])
            else:
                self._changed.add(name)

    def leave_out(self, checkpoint: dict[str, Any], module: nn.Module, never: Iterable[str] = ()) -> None:
        """Takes them out of a checkpoint that is about to be written.

        Args:
            checkpoint: changed in place; its `lightning_rlhf` gets the record.
            module: its weights as they are now.
            never: names of weights that no checkpoint needs: a resume takes them from their files, whatever these say.
        """
        weights = dict(module.named_parameters(remove_duplicate=False))
        never = {name for name in never if name in weights}
        names = {name for name in self._sums if self._may_be_left_out(name, weights[name])} - never
        dropped: set[str] = set()
        for holder, key in _states(checkpoint):
            state = holder[key]
            out = never | {name for name in names if name in state and _is_same(state[name], weights[name])}
            holder[key] = _like(state, {name: value for name, value in state.items() if name not in out})
            dropped |= out & names
        checkpoint["lightning_rlhf"][LEFT_OUT] = {
            "sums": {name: self._sums[name] for name in sorted(dropped)},
            "origins": {name: self._origins[name] for name in sorted(dropped)},
            "from_files": sorted(never),
        }

    def put_back(self, checkpoint: dict[str, Any], module: nn.Module) -> None:
        """Completes a checkpoint that is about to be loaded.

        Args:
            checkpoint: changed in place; of an earlier release, or sharded, it may hold everything already.
            module: with its models as they were loaded.

        Raises:
            ModelError: the frozen weights are not those that the checkpoint was trained with.
        """
        record = checkpoint.get("lightning_rlhf", {}).get(LEFT_OUT, {})
        sums, weights = record.get("sums", {}), dict(module.named_parameters(remove_duplicate=False))
        if sums:
            self.sum_up(module)
            self._require_same(record)
        missing = [name for name in (*sums, *record.get("from_files", ())) if name in weights]
        final = next((key for key in reversed(_STATES) if checkpoint.get(key)), None)
        for holder, key in _states(checkpoint):
            state = holder[key]
            if key == final:  # what the module has in the end may be another base, in a checkpoint that holds it all
                there = self._origins.keys() & state.keys()
                self._changed |= {name for name in there if not _is_same(state[name], weights[name])}
            own = {name: weights[name].detach() for name in missing if name not in state}
            if key != _STATES[0]:  # loaded after the first, which may change the module's own
                own = {name: weight.clone() for name, weight in own.items()}
            holder[key] = _like(state, {**state, **own})

    def _require_same(self, record: Mapping[str, Any]) -> None:
        sums, origins = record["sums"], record["origins"]
        other = [name for name in sums if self._sums.get(name) != sums[name]]
        if not other:
            return
        before = ", ".join(sorted({repr(origins[name]) for name in other}))
        if self._changed & set(other):
            raise ModelError(
                f"the frozen weights of a module that loads a checkpoint must be those of {before} as they were "
                "loaded, got some that have changed since, as callbacks that average weights do. Make the module anew."
            )
        now = ", ".join(sorted({repr(self._origins.get(name, "nothing")) for name in other}))
        raise ModelError(
            f"the frozen weights must be those that the checkpoint was trained with, from {before}, got others from "
            f"{now}: {len(other)} of {len(sums)} differ, {other[0]} among them. Put back what was there, or name with "
            "model.base where it is now."
        )

    def _may_be_left_out(self, name: str, weight: Tensor) -> bool:
        return name not in self._changed and not weight.requires_grad and self._is_unchanged(name, weight)

    def _is_unchanged(self, name: str, weight: Tensor) -> bool:
        if weight.is_meta:
            return False
        now = _sample(weight)
        return torch.equal(self._samples[name].to(now.dtype), now)


def _with_origin(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Name and origin of each weight that is frozen and can be had again."""
    for prefix, model in module.named_modules():
        name = origin(model) if isinstance(model, PreTrainedModel) else None
        if name is not None:
            for key, weight in model.named_parameters(remove_duplicate=False):
                if not weight.requires_grad and ".lora_" not in key:
                    yield f"{prefix}.{key}", name


def _states(checkpoint: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Each copy of the module's weights, by what holds it: its own, and those of callbacks that average."""
    for key in _STATES:
        if checkpoint.get(key):
            yield checkpoint, key
    for callback, state in (checkpoint.get("callbacks") or {}).items():
        if isinstance(state, dict) and state.get("average_model_state"):
            checkpoint["callbacks"][callback] = copied = dict(state)  # it may be the callback's own
            yield copied, "average_model_state"


def _like(state: dict[str, Any], items: dict[str, Any]) -> dict[str, Any]:
    """Other weights in place of these, with the versions of the layers that torch adds."""
    made = type(state)(items)
    if hasattr(state, "_metadata"):
        made._metadata = state._metadata  # type: ignore[attr-defined]
    return made


def _is_same(value: Any, weight: Tensor) -> bool:
    if not isinstance(value, Tensor) or value.shape != weight.shape or value.dtype != weight.dtype:
        return False
    return value.data_ptr() == weight.data_ptr() or torch.equal(value.to(weight.device), weight)


def _is_sharded(weight: Tensor) -> bool:
    return isinstance(weight, DTensor)


def _sample(weight: Tensor) -> Tensor:
    flat = weight.detach().reshape(-1)
    return flat[:: max(1, len(flat) // _NUM_SAMPLED)].cpu().clone()


def _checksum(weight: Tensor) -> str:
    data: Any = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return f"{weight.dtype} {tuple(weight.shape)} {xxhash.xxh3_128(data).hexdigest()}"
