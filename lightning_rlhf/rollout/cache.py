"""A key-value cache that grows in place."""

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer

__all__ = ["make_room"]


class _RoomyLayer(DynamicLayer):
    """Keys and values of one layer as the beginning of memory that has room behind them.

    transformers' own layer copies all keys and values for every new token: the square of the length in all.

    Args:
        filled: the layer to go on from.
        longest: positions that it will have at most.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, filled: DynamicLayer, longest: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        assert filled.keys is not None
        assert filled.values is not None
        self.lazy_initialization(filled.keys, filled.values)
        self.keys, self.values = filled.keys, filled.values
        self._longest = longest
        self._rooms = self.keys, self.values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Appends keys and values, and returns all of them."""
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        key_room, value_room = self._rooms
        if end > key_room.shape[-2] or self.keys.data_ptr() != key_room.data_ptr():  # full, or made anew outside
            capacity = max(end, min(end + end // 2, self._longest))
            key_room, value_room = _moved(self.keys, capacity), _moved(self.values, capacity)
            self._rooms = key_room, value_room
        key_room[:, :, start:end] = key_states
        value_room[:, :, start:end] = value_states
        self.keys, self.values = key_room[:, :, :end], value_room[:, :, :end]
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Only these rows go on."""
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        self._rooms = self.keys, self.values  # frees what they stood in before the next layer's rows are copied


def make_room(cache: Any, longest: int) -> None:
    """Lets the layers of a cache that would grow by copying grow in place; others, such as sliding windows, stay.

    Args:
        cache: of transformers, after the first pass; changed in place.
        longest: positions that it will have at most.
    """
    layers: list[Any] = getattr(cache, "layers", [])
    for place, layer in enumerate(layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            layers[place] = _RoomyLayer(layer, longest)


def _moved(filled: Tensor, capacity: int) -> Tensor:
    batch, heads, length, width = filled.shape
    room = filled.new_empty(batch, heads, capacity, width)
    room[:, :, :length] = filled
    return room
