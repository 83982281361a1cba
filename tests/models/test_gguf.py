import gguf
import numpy as np
import pytest
import torch

from lightning_rlhf.builtins.models import TinyModel
from lightning_rlhf.errors import ModelError
from lightning_rlhf.models import load_base, save_language_model

LAYERS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    **{f"model.layers.0.{theirs}.weight": f"blk.0.{ours}.weight" for theirs, ours in LAYERS.items()},
}
IDS = torch.arange(5, 15)[None]


@pytest.fixture
def written(tmp_path):
    """`written(quantized)`: a tiny Llama, and the path of its GGUF file."""

    def write(quantized):
        model, tokenizer = TinyModel(hidden_size=32, num_layers=1, num_heads=2, max_positions=64).load()
        path = tmp_path / "tiny.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_context_length(64)
        writer.add_embedding_length(32)
        writer.add_block_count(1)
        writer.add_feed_forward_length(128)
        writer.add_head_count(2)
        writer.add_head_count_kv(2)
        writer.add_rope_dimension_count(16)
        writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
        writer.add_vocab_size(len(tokenizer))
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get))
        writer.add_token_types([3, 3, 3, *[1] * 256])
        writer.add_token_scores([0.0] * len(tokenizer))
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_pad_token_id(0)
        for name, tensor in model.state_dict().items():
            array = tensor.numpy()
            if "q_proj" in name or "k_proj" in name:  # llama.cpp interleaves the halves of rotary heads
                array = np.ascontiguousarray(array.reshape(2, 2, 8, 32).swapaxes(1, 2).reshape(32, 32))
            if quantized and array.ndim == 2:
                kind = gguf.GGMLQuantizationType.Q8_0
                writer.add_tensor(NAMES[name], gguf.quants.quantize(array, kind), raw_dtype=kind)
            else:
                writer.add_tensor(NAMES[name], array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return model, path

    return write


@pytest.mark.parametrize(("quantized", "tolerance"), [(False, 1e-6), (True, 1e-2)])
def test_a_gguf_file_becomes_a_dense_model_that_trains_and_saves(quantized, tolerance, written, tmp_path):
    model, path = written(quantized)
    loaded = load_base(str(path))
    logits = loaded.model(IDS).logits
    torch.testing.assert_close(logits, model(IDS).logits, atol=tolerance, rtol=0)
    assert loaded.model.dtype == torch.float32
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("ab c", add_special_tokens=False)) == "ab c"
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.model.parameters())
    save_language_model(loaded.model, loaded.tokenizer, tmp_path / "model", None)
    again = load_base(str(tmp_path / "model"))
    assert torch.equal(again.model(IDS).logits, logits)
    assert not hasattr(again.model.config, "quantization_config")


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF?")
    with pytest.raises(ModelError, match=r"broken\.gguf"):
        load_base(str(tmp_path / "broken.gguf"))
