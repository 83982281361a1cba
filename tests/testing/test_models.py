import socket

import pytest
import torch
from tokenizers import AddedToken
from torch import nn

from lightning_rlhf.builtins.models import TinyModel
from lightning_rlhf.plugin_system.interfaces import ModelSource
from lightning_rlhf.testing import ModelSourceContract


class TestTiny(ModelSourceContract):
    component = "tiny"
    init_args = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "max_positions": 64}


class Changed(ModelSource):
    """The built-in tiny model; derived classes spoil it."""

    def load(self):
        return self.spoil(*TinyModel(16, 1, 2, 64).load())

    def spoil(self, model, tokenizer):
        return model, tokenizer


class NotFinite(Changed):
    def spoil(self, model, tokenizer):
        nn.init.constant_(model.lm_head.weight, float("nan"))
        return model, tokenizer


class MoreTokensThanEmbeddings(Changed):
    def spoil(self, model, tokenizer):
        tokenizer.add_tokens(["<one more>"])
        return model, tokenizer


class Headless(Changed):
    def spoil(self, model, tokenizer):
        return model.model, tokenizer


class WithoutEOS(Changed):
    def spoil(self, model, tokenizer):
        tokenizer.eos_token = None
        model.config.eos_token_id = None  # else it says what ends a text
        return model, tokenizer


class WithAnEOSThatTheModelDoesNotKnow(Changed):
    def spoil(self, model, tokenizer):
        tokenizer.add_special_tokens({"eos_token": AddedToken("<end>", special=True)})
        return model, tokenizer


class AnotherEachTime(Changed):
    def spoil(self, model, tokenizer):
        nn.init.normal_(model.lm_head.weight)
        return model, tokenizer


class ChangesOutsideOfItsWeights(Changed):
    """A hook is no weight: it is not saved."""

    def spoil(self, model, tokenizer):
        model.lm_head.register_forward_hook(lambda _module, _inputs, logits: 2 * logits)
        return model, tokenizer


class LowersInPython(Changed):
    """What is not in the tokenizer's files is not saved either."""

    def spoil(self, model, tokenizer):
        class Lowering(type(tokenizer)):
            def __call__(self, text, *arguments, **options):
                return super().__call__(text.lower(), *arguments, **options)

        tokenizer.__class__ = Lowering
        return model, tokenizer


class Downloads(Changed):
    offline = True

    def spoil(self, model, tokenizer):
        socket.getaddrinfo("weights.example.org", 443)
        return model, tokenizer


DEFECTS = [
    ("test_generates", NotFinite, "must generate, got DivergenceError"),
    ("test_generates", MoreTokensThanEmbeddings, "an embedding for each token, got 259 for a vocabulary of 260."),
    ("test_generates", Headless, "must load, got ModelError: load() of Headless must return a causal language model"),
    ("test_has_a_stop_token", WithoutEOS, "must have a stop token, got TemplateError"),
    ("test_has_a_stop_token", WithAnEOSThatTheModelDoesNotKnow, "must be one of the 259 that the model knows, got 259"),
    ("test_loads_the_same_again", AnotherEachTime, "must load the same weights each time, got logits that differ by"),
    ("test_saves_and_loads_to_equal_logits", ChangesOutsideOfItsWeights, "must have equal logits after saving"),
    ("test_saves_and_loads_to_equal_logits", LowersInPython, "must give the same ids after saving"),
    ("test_works_offline_if_it_says_so", Downloads, "It says that it works offline. It asked for weights.example.org."),
]


@pytest.mark.parametrize(("check", "component", "message"), DEFECTS)
def test_a_broken_model_is_found(faults, monkeypatch, check, component, message):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])  # outside of the contract's own cut the host is there
    found = faults(ModelSourceContract, component)
    assert message in found[check]


def test_every_check_has_a_model_that_it_finds():
    assert {check for check, _, _ in DEFECTS} == set(ModelSourceContract.checks())


def test_a_good_model_passes_and_leaves_the_generator_alone(faults):
    before = torch.get_rng_state()
    assert faults(ModelSourceContract, Changed) == {}
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_is_loaded_once_for_the_tests_of_a_class():
    loads = []

    class Counted(Changed):
        def load(self):
            loads.append(self)
            return super().load()

    tested = type("TestCounted", (ModelSourceContract,), {"component": Counted})
    other = type("TestOther", (tested,), {})
    assert tested().loaded() is tested().loaded()
    assert len(loads) == 1
    other().loaded()
    assert len(loads) == 2
