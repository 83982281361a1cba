import socket

import pytest

from lightning_rlhf.testing import without_network

ADDRESS = ("203.0.113.1", 80)  # reserved for documentation: nobody's


def test_no_name_is_resolved_and_no_machine_reached():
    with without_network() as asked:
        with pytest.raises(socket.gaierror):
            socket.getaddrinfo("example.org", 443)
        with pytest.raises(socket.gaierror):
            socket.gethostbyname("example.net")
        with socket.socket() as plain, pytest.raises(OSError, match="cut off"):
            plain.connect(ADDRESS)
        with socket.socket() as plain, pytest.raises(OSError, match="cut off"):
            plain.connect_ex(ADDRESS)
        with pytest.raises(OSError):
            socket.create_connection(("example.com", 80), timeout=1)
    assert asked == ["example.org", "example.net", "203.0.113.1", "203.0.113.1", "example.com"]


def test_what_is_on_this_machine_is_reached():
    with socket.socket() as server, without_network() as asked:
        server.bind(("127.0.0.1", 0))
        server.listen()
        socket.create_connection(("localhost", server.getsockname()[1]), timeout=5).close()
        with socket.socket(socket.AF_UNIX) as local, pytest.raises(FileNotFoundError):
            local.connect("/nowhere/socket")
        socket.getaddrinfo(None, 80)
    assert asked == []


def test_a_name_that_begins_like_this_machines_is_elsewhere():
    with without_network() as asked, pytest.raises(socket.gaierror):
        socket.getaddrinfo("localhost.example.org", 80)
    assert asked == ["localhost.example.org"]


def test_the_network_is_back_afterwards():
    before = (socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo, socket.gethostbyname)
    with pytest.raises(ValueError, match="inside"), without_network():
        raise ValueError("inside")
    assert (socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo, socket.gethostbyname) == before
