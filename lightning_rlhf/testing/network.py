"""A process without a network."""

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

__all__ = ["without_network"]


@contextmanager
def without_network() -> Iterator[list[str]]:
    """Inside, names are not resolved and no other machine can be reached; yields what was asked for, as it happens.

    Connections within the machine work. What fails raises what it raises on a machine without a network, so that
    libraries fall back to what they have cached.
    """
    asked: list[str] = []

    def refuse(host: object, error: OSError) -> None:
        name = host.decode(errors="replace") if isinstance(host, bytes) else str(host)
        if not _is_here(name):
            asked.append(name)
            raise error

    def connecting(method: Any) -> Any:
        def call(self: socket.socket, address: Any, /) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                refuse(address[0], OSError("the network is cut off while this is tested"))
            return method(self, address)

        return call

    def resolving(function: Any) -> Any:
        def call(host: Any, *arguments: Any, **options: Any) -> Any:
            if host:  # nothing is this machine
                refuse(host, socket.gaierror(socket.EAI_AGAIN, "names are not resolved while this is tested"))
            return function(host, *arguments, **options)

        return call

    with (
        mock.patch.object(socket.socket, "connect", connecting(socket.socket.connect)),
        mock.patch.object(socket.socket, "connect_ex", connecting(socket.socket.connect_ex)),
        mock.patch.object(socket, "getaddrinfo", resolving(socket.getaddrinfo)),
        mock.patch.object(socket, "gethostbyname", resolving(socket.gethostbyname)),
    ):
        yield asked


def _is_here(host: str) -> bool:
    """Whether a name or an address is this machine's."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host in ("localhost", socket.gethostname())
    return address.is_loopback or address.is_unspecified
