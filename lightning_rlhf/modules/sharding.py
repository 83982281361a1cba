"""FSDP2: each model a root, each of its decoder layers a unit; and whole weights for generation and export."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from lightning_rlhf.models import LanguageModel

__all__ = ["gathered_weights", "shard"]


def shard(networks: Iterable[nn.Module], mesh: DeviceMesh) -> None:
    """Shards models in place.

    Args:
        networks: the models.
        mesh: of the ranks that each holds a share.
    """
    for network in networks:
        for layer in _decoder_layers(network):
            fully_shard(layer, mesh=mesh)
        fully_shard(_root(network), mesh=mesh)


@contextmanager
def gathered_weights(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, every rank holds all weights; where nothing is sharded there is nothing to do.

    Args:
        networks: the models.
    """
    networks = list(networks)
    members = [module for network in networks for module in network.modules() if isinstance(module, FSDPModule)]
    roots = [_root(network) for network in networks]
    for module in members:
        # without this each layer would be sharded again after its forward, and gathered at the next token: a
        # collective that hangs as soon as one rank's responses have all stopped
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in members:
            # roots stay gathered from forward to backward, as torch has it
            module.set_reshard_after_forward(module not in roots, recurse=False)
            module.reshard()


def _root(network: nn.Module) -> nn.Module:
    """What FSDP2 gathers first: of a `LanguageModel` what is in it, which generation calls by itself."""
    return network.model if isinstance(network, LanguageModel) else network


def _decoder_layers(network: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a transformer: the members of its module lists."""
    return [block for module in network.modules() if isinstance(module, nn.ModuleList) for block in module]
