import gc
import weakref

import pytest
import torch
from torch import nn
from transformers import DeepseekV32Config, DeepseekV32ForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer

from lightning_rlhf.models import LanguageModel, LoRA, ScalarModel, add_adapter, enable_gradient_checkpointing
from lightning_rlhf.models.adapters import without_adapters
from lightning_rlhf.models.last_block import reading_only

ARCHITECTURES = ["gpt2", "llama", "neox", "opt", "gemma2", "qwen2", "lfm2", "gpt_oss"]


def last_block(model):
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)][-1]


@pytest.fixture
def narrowed(make_tokens):
    """Which modules of a model's last block are computed at the kept positions alone, by name."""

    def find(model):
        block, seen = last_block(model), {}
        names = {module: name for name, module in block.named_modules()}

        def note(module, args, output):
            if args and isinstance(args[0], torch.Tensor):
                seen[names[module]] = args[0][..., 0].numel()

        handles = [module.register_forward_hook(note) for module in names]
        tokens = make_tokens([[5, 9, 4, 7, 33, 2], [1, 2, 3, 4, 5, 6]])
        LanguageModel(model)(tokens, tokens.position_ids > 3)
        for handle in handles:
            handle.remove()
        outermost = {name for name, number in seen.items() if number == 4}
        return {name for name in outermost if not any(name.startswith(f"{other}.") for other in outermost - {name})}

    return find


def results_and_gradients(model, tokens, keep):
    output = model(tokens, keep)
    results = getattr(output, "logits", output)
    model.zero_grad()
    (results.square() * torch.linspace(-1.0, 2.0, len(results)).view(-1, *[1] * (results.dim() - 1))).mean().backward()
    return results.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def every_third(tokens):
    return tokens.attention_mask & (tokens.position_ids % 3 == 1)


def assert_same_as_whole(model, tokens, monkeypatch, tolerance=1e-5):
    """Results and gradients are those of a call in which every module gets every position."""
    found, gradients = results_and_gradients(model, tokens, every_third(tokens))
    with monkeypatch.context() as patch:
        patch.setattr("lightning_rlhf.models.last_block._LEAST_SAVING", 2.0)
        expected, expected_gradients = results_and_gradients(model, tokens, every_third(tokens))
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, atol=10 * tolerance, rtol=10 * tolerance, msg=name)


class Around(nn.Module):
    """A network with something done to its input or output."""

    def __init__(self, inner, function):
        super().__init__()
        self.inner = inner
        self.function = function

    def forward(self, hidden):
        return self.function(self.inner, hidden)


def with_network(model, function):
    block = last_block(model)
    block.mlp = Around(block.mlp, function)
    return model


class TestExactness:
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    @pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
    def test_logits_and_gradients_are_those_of_a_full_pass(
        self, architecture, left, load_tiny, make_tokens, rows, monkeypatch
    ):
        model, tokens = LanguageModel(load_tiny(architecture).model), make_tokens(rows, left=left)
        assert_same_as_whole(model, tokens, monkeypatch)

    @pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "lfm2"])
    @pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
    def test_scalars_and_gradients_are_those_of_a_full_pass(
        self, architecture, left, load_tiny, make_tokens, rows, monkeypatch
    ):
        model, tokens = ScalarModel.from_language_model(load_tiny(architecture)), make_tokens(rows, left=left)
        assert_same_as_whole(model, tokens, monkeypatch)

    def test_packed_rows_are_read_alike(self, load_tiny, make_tokens, monkeypatch):
        model = LanguageModel(load_tiny("llama").model)
        tokens = make_tokens([[5, 9, 4, 7, 33, 2], [1, 2, 3, 4, 5, 6]])
        tokens = tokens._replace(
            segment_ids=torch.tensor([[0, 0, 0, 1, 1, 1]] * 2), position_ids=torch.tensor([[0, 1, 2, 0, 1, 2]] * 2)
        )
        assert_same_as_whole(model, tokens, monkeypatch)

    def test_adapters_learn_what_they_learn_in_a_full_pass(self, load_tiny, make_tokens, rows, monkeypatch):
        model = LanguageModel(add_adapter(load_tiny("llama").model, LoRA(rank=4)))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0.0, 0.2)
        tokens = make_tokens(rows)
        assert_same_as_whole(model, tokens, monkeypatch)

    def test_half_precision_differs_by_its_rounding_alone(self, load_tiny, make_tokens, rows, monkeypatch):
        model = LanguageModel(load_tiny("gpt2").model)
        tokens = make_tokens(rows)
        with torch.autocast("cpu", torch.bfloat16):
            assert_same_as_whole(model, tokens, monkeypatch, tolerance=0.02)

    def test_a_batch_without_a_kept_position_passes(self, load_tiny, make_tokens, rows):
        model = LanguageModel(load_tiny("llama").model)
        tokens = make_tokens(rows)
        logits = model(tokens, torch.zeros_like(tokens.attention_mask)).logits
        logits.sum().backward()
        assert logits.shape == (0, 64)
        assert not model.model.lm_head.weight.grad.any()


class TestWhatIsNarrowed:
    @pytest.mark.parametrize(
        ("architecture", "names"),
        [
            ("gpt2", {"attn.c_proj", "mlp"}),
            ("llama", {"self_attn.q_proj", "self_attn.o_proj", "mlp"}),
            ("neox", {"attention.dense", "mlp"}),
            ("opt", {"self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2"}),
            ("gemma2", {"self_attn.q_proj", "self_attn.o_proj", "mlp"}),
            ("lfm2", {"self_attn.q_proj", "self_attn.out_proj", "feed_forward"}),
        ],
    )
    def test_all_but_keys_and_values(self, architecture, names, load_tiny, narrowed):
        assert narrowed(load_tiny(architecture).model) == names

    def test_weights_of_zero_hide_no_dependence(self, load_tiny, narrowed):
        model = load_tiny("llama").model
        nn.init.zeros_(last_block(model).self_attn.k_proj.weight)
        nn.init.zeros_(last_block(model).self_attn.v_proj.weight)
        assert narrowed(model) == {"self_attn.q_proj", "self_attn.o_proj", "mlp"}

    def test_adapted_layers_are_narrowed_with_their_adapters(self, load_tiny, narrowed):
        model = add_adapter(load_tiny("llama").model, LoRA(rank=4))
        assert narrowed(model) == {"self_attn.q_proj", "self_attn.o_proj", "mlp"}
        with without_adapters(model):
            assert narrowed(model) == {"self_attn.q_proj", "self_attn.o_proj", "mlp"}

    def test_a_network_that_mixes_positions_gets_all_of_them(self, load_tiny, narrowed):
        model = with_network(load_tiny("llama").model, lambda inner, hidden: inner(hidden.cumsum(1)))
        assert narrowed(model) == {"mlp.inner"}

    def test_a_network_that_tells_places_apart_lets_nothing_be_narrowed(self, load_tiny, narrowed):
        def placing(inner, hidden):
            return inner(hidden) * torch.arange(1, hidden.shape[1] + 1)[:, None]

        assert narrowed(with_network(load_tiny("llama").model, placing)) == set()

    def test_a_block_that_runs_twice_gets_all_positions(self, load_tiny, narrowed):
        model = load_tiny("llama").model
        model.model.layers[0] = model.model.layers[1]
        assert narrowed(model) == set()

    def test_a_block_behind_which_positions_meet_gets_all_of_them(self, load_tiny, narrowed):
        class Summing(nn.Module):
            def forward(self, hidden):
                return hidden.cumsum(1)

        model = load_tiny("llama").model
        model.model.norm = Summing()
        assert narrowed(model) == set()

    def test_a_network_that_refuses_nan_gets_all_positions(self, load_tiny, narrowed):
        def refusing(inner, hidden):
            if hidden.isnan().any():
                raise ValueError("nan")
            return inner(hidden)

        assert narrowed(with_network(load_tiny("llama").model, refusing)) == set()

    def test_what_selects_keys_gets_all_positions(self, narrowed):
        config = DeepseekV32Config(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            kv_lora_rank=16,
            q_lora_rank=16,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=16,
            index_topk=40,
            index_head_dim=16,
            index_n_heads=2,
            max_position_embeddings=64,
        )
        torch.manual_seed(0)
        model = DeepseekV32ForCausalLM(config).eval()
        assert not {name for name in narrowed(model) if "indexer" in name}
        assert "mlp" in narrowed(model)

    def test_routers_whose_loss_wants_all_positions_get_them(self, load_tiny, narrowed):
        model = load_tiny("llama").model
        model.config.output_router_logits = True
        assert narrowed(model) == set()

    def test_recomputed_blocks_get_all_positions(self, load_tiny, make_tokens, rows, narrowed, monkeypatch):
        loaded = load_tiny("llama")
        enable_gradient_checkpointing(loaded.model)
        assert narrowed(loaded.model) == set()
        model, tokens = LanguageModel(loaded.model), make_tokens(rows)
        assert_same_as_whole(model, tokens, monkeypatch)

    def test_most_positions_pass_as_all_of_them(self, load_tiny, make_tokens, rows):
        model, tokens = load_tiny("llama").model, make_tokens([rows[0]])
        with reading_only(model, tokens.position_ids > 0):
            assert not last_block(model).mlp._forward_pre_hooks
        with reading_only(model, tokens.position_ids > 3):
            assert last_block(model).mlp._forward_pre_hooks


class TestAfterwards:
    @pytest.mark.parametrize("recomputed", [False, True])
    def test_a_model_that_is_let_go_is_freed(self, recomputed, load_tiny, make_tokens, rows):
        model, tokens = load_tiny("llama").model, make_tokens(rows)
        with reading_only(model, every_third(tokens)):
            pass
        if recomputed:
            enable_gradient_checkpointing(model)
        there = weakref.ref(model)
        del model
        gc.collect()
        assert there() is None

    def test_adapters_that_come_later_are_narrowed_too(self, load_tiny, narrowed):
        model = load_tiny("llama").model
        assert narrowed(model) == {"self_attn.q_proj", "self_attn.o_proj", "mlp"}
        add_adapter(model, LoRA(rank=4))
        assert narrowed(model) == {"self_attn.q_proj", "self_attn.o_proj", "mlp"}

    def test_the_model_is_as_it_was_even_after_an_error(self, load_tiny, make_tokens, rows):
        model, tokens = load_tiny("llama").model, make_tokens(rows)
        with pytest.raises(RuntimeError), reading_only(model, every_third(tokens)):
            raise RuntimeError("stop")
        assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())

    def test_training_mode_and_random_numbers_stay(self, load_tiny, make_tokens, rows):
        model, tokens = load_tiny("gpt2").model.train(), make_tokens(rows)
        model.get_input_embeddings().register_forward_hook(lambda module, args, output: output + torch.rand(1))
        before = torch.get_rng_state()
        with reading_only(model, every_third(tokens)):
            assert last_block(model).mlp._forward_pre_hooks
        assert all(module.training for module in model.modules())
        assert torch.equal(torch.get_rng_state(), before)
