"""A process without a network."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

__all__ = ["without_network"]

_LOCAL = ("localhost", "127.", "::1", "0.0.0.0")


@contextmanager
def without_network() -> Iterator[list[str]]:
    """Inside, names are not resolved and no other machine can be reached; yields what was tried, as it is tried.

    Connections within the machine work. What fails raises what it raises on a machine without a network, so that
    libraries fall back to what they have cached.
    """
    tried: list[str] = []
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def refuse(host: str, error: OSError) -> None:
        if not host.startswith(_LOCAL):
            tried.append(host)
            raise error

    def connecting(method: Any) -> Any:
        def call(self: socket.socket, address: Any, /) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                refuse(str(address[0]), OSError("network is unreachable: it is cut off while this is checked"))
            return method(self, address)

        return call

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name:
            refuse(name, socket.gaierror(socket.EAI_AGAIN, "names are not resolved while this is checked"))
        return resolve(host, *arguments, **options)

    with (
        mock.patch.object(socket.socket, "connect", connecting(connect)),
        mock.patch.object(socket.socket, "connect_ex", connecting(socket.socket.connect_ex)),
        mock.patch.object(socket, "getaddrinfo", getaddrinfo),
    ):
        yield tried
