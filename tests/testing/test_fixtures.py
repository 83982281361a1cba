import socket

import pytest

pytest_plugins = ["lightning_rlhf.testing.fixtures"]


def test_a_tokenizer_and_a_model_are_there(byte_tokenizer, tiny_model):
    assert byte_tokenizer.decode(byte_tokenizer.encode("猫")) == "猫"
    assert tiny_model.tokenizer.eos_token_id < tiny_model.model.config.vocab_size


def test_nothing_outside_is_reached(no_network):
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("example.org", 443)
    assert no_network == ["example.org"]
