import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2ForSequenceClassification,
    LlamaForSequenceClassification,
)

from lightning_rlhf.errors import ModelError
from lightning_rlhf.models import (
    LoRA,
    ScalarHead,
    ScalarModel,
    add_adapter,
    load_base,
    save_language_model,
    save_reward_model,
)


def scored(model, tokens):
    with torch.no_grad():
        return model.scores(tokens, tokens.attention_mask.sum(-1) - 1)


@pytest.fixture
def trained(load_tiny):
    """A scalar model with a bias, as after training and centring."""

    def make(architecture, adapter=None):
        model = ScalarModel.from_language_model(load_tiny(architecture), seed=3)
        if adapter is not None:
            model.backbone = add_adapter(model.backbone, adapter)
            generator = torch.Generator().manual_seed(1)
            for parameter in model.backbone.parameters():
                if parameter.requires_grad:
                    parameter.data.normal_(0.0, 0.2, generator=generator)
        model.shift_scores(torch.tensor(0.75))
        return model

    return make


class TestHead:
    def test_its_scalars_are_no_view_which_fsdp2_cannot_hook_into(self):
        assert not ScalarHead(4)(torch.ones(2, 3, 4))._is_view()

    def test_it_starts_as_a_normal_of_variance_one_over_width_plus_one_with_zero_bias(self):
        head = ScalarHead(8191)
        assert float(head.weight.detach().std()) == pytest.approx(1 / math.sqrt(8192), rel=0.03)
        assert head.bias.tolist() == [0.0]

    def test_its_seed_decides_and_the_global_generator_is_left_alone(self):
        torch.manual_seed(0)
        expected = torch.rand(3)
        torch.manual_seed(0)
        first, same, other = ScalarHead(16, seed=1), ScalarHead(16, seed=1), ScalarHead(16, seed=2)
        assert torch.equal(torch.rand(3), expected)
        assert torch.equal(first.weight, same.weight)
        assert not torch.equal(first.weight, other.weight)

    def test_a_zero_head_says_zero(self, load_tiny, make_tokens, rows):
        model = ScalarModel.from_language_model(load_tiny("gpt2"), zero_head=True)
        assert model(make_tokens(rows)).abs().max() == 0


class TestScalars:
    @pytest.mark.parametrize("architecture", ["gpt2", "llama", "neox", "opt", "gemma2"])
    def test_the_head_reads_the_states_that_the_output_layer_would(self, architecture, load_tiny, make_tokens, rows):
        from lightning_rlhf.models import LanguageModel

        loaded = load_tiny(architecture)
        tokens = make_tokens(rows)
        hidden = LanguageModel(loaded.model)(tokens, tokens.attention_mask).hidden
        model = ScalarModel.from_language_model(loaded, seed=0)
        torch.testing.assert_close(model(tokens, tokens.attention_mask), model.head(hidden), atol=1e-5, rtol=0)

    def test_the_score_is_read_at_the_last_real_token_when_padding_is_eos(self, trained, make_tokens, rows):
        model = trained("gpt2")
        batched = scored(model, make_tokens(rows, length=14, pad_id=0))
        alone = torch.cat([scored(model, make_tokens([row])) for row in rows])
        torch.testing.assert_close(batched, alone, atol=1e-5, rtol=0)

    def test_scalars_are_fp32_under_true_half_precision(self, trained, make_tokens, rows):
        model = trained("llama").to(torch.bfloat16)
        assert model(make_tokens(rows)).dtype == torch.float32

    def test_shifting_moves_every_score_alike(self, trained, make_tokens, rows):
        model = trained("gpt2")
        before = scored(model, make_tokens(rows))
        model.shift_scores(-before.mean())
        torch.testing.assert_close(scored(model, make_tokens(rows)).mean(), torch.tensor(0.0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("adapter", [None, LoRA(rank=4)], ids=["whole", "adapter"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "neox", "opt"])
class TestFiles:
    def test_scores_survive_saving_and_loading(
        self, architecture, adapter, trained, make_tokens, make_tokenizer, rows, tmp_path
    ):
        model = trained(architecture, adapter)
        save_reward_model(model, make_tokenizer(), tmp_path / "model", None)
        loaded = ScalarModel.load(str(tmp_path / "model"))
        tokens = make_tokens(rows)
        torch.testing.assert_close(scored(loaded.model, tokens), scored(model, tokens), atol=1e-5, rtol=0)

    def test_a_loaded_model_can_learn_every_token_also_the_one_that_pads(
        self, architecture, adapter, trained, make_tokens, make_tokenizer, tmp_path
    ):
        save_reward_model(trained(architecture, adapter), make_tokenizer(), tmp_path / "model", None)
        loaded = ScalarModel.load(str(tmp_path / "model")).model
        pad_id = loaded.backbone.config.pad_token_id
        loaded(make_tokens([[5, pad_id, 6]])).sum().backward()
        assert loaded.backbone.get_input_embeddings().weight.grad[pad_id].any()

    def test_transformers_gives_the_score_plus_the_offset(
        self, architecture, adapter, trained, make_tokens, make_tokenizer, rows, tmp_path
    ):
        model = trained(architecture, adapter)
        save_reward_model(model, make_tokenizer(), tmp_path, None)
        theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        assert theirs.config.num_labels == 1
        assert theirs.config.pad_token_id == tokenizer.pad_token_id
        assert theirs.config.pad_token_id != tokenizer.eos_token_id
        tokens = make_tokens(rows, length=12, pad_id=theirs.config.pad_token_id)
        with torch.no_grad():
            raw = theirs(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask.long()).logits[:, 0]
        torch.testing.assert_close(raw - theirs.config.score_offset, scored(model, tokens), atol=1e-5, rtol=0)


class TestLoading:
    def test_a_model_without_a_head_is_refused(self, load_tiny, tmp_path):
        loaded = load_tiny("gpt2")
        save_language_model(loaded.model, loaded.tokenizer, tmp_path, None)
        with pytest.raises(ModelError, match="must hold a head"):
            ScalarModel.load(str(tmp_path))

    def test_files_that_lack_the_head_are_refused(self, trained, make_tokenizer, tmp_path):
        save_reward_model(trained("gpt2"), make_tokenizer(), tmp_path, None)
        tensors = load_file(tmp_path / "model.safetensors")
        del tensors["score.weight"]
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=r"score\.weight"):
            ScalarModel.load(str(tmp_path))

    def test_several_labels_are_refused(self, trained, make_tokenizer, tmp_path):
        save_reward_model(trained("gpt2"), make_tokenizer(), tmp_path, None)
        config = json.loads((tmp_path / "config.json").read_text())
        config |= {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match="one label"):
            ScalarModel.load(str(tmp_path))

    @pytest.mark.parametrize("name", ["tiny", "runs/reward-0/model", "./model"])
    def test_a_name_that_is_neither_a_path_nor_a_hub_id_is_refused_without_asking_the_network(self, name):
        with pytest.raises(ModelError, match="reward_model must be an existing directory or a hub id"):
            ScalarModel.load(name)

    def test_the_root_of_a_run_hints_at_its_model(self, trained, make_tokenizer, tmp_path):
        save_reward_model(trained("gpt2"), make_tokenizer(), tmp_path / "model", None)
        with pytest.raises(ModelError, match=r"without. Did you mean .*model\?"):
            ScalarModel.load(str(tmp_path))

    def test_a_reward_model_is_no_base(self, trained, make_tokenizer, tmp_path):
        save_reward_model(trained("gpt2"), make_tokenizer(), tmp_path, None)
        with pytest.raises(ModelError, match="a reward model"):
            load_base(str(tmp_path))


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_head_with_a_bias_of_its_own_keeps_its_scores(
    architecture, trained, make_tokens, make_tokenizer, rows, tmp_path, monkeypatch
):
    """transformers' classes have none today; one of a model's own code, or of tomorrow, may."""
    model = trained(architecture)
    kind = {"gpt2": GPT2ForSequenceClassification, "llama": LlamaForSequenceClassification}[architecture]
    before = kind.__init__

    def with_bias(self, config):
        before(self, config)
        self.score = torch.nn.Linear(config.hidden_size, config.num_labels)

    monkeypatch.setattr(kind, "__init__", with_bias)
    save_reward_model(model, make_tokenizer(), tmp_path, None)
    tokens = make_tokens(rows)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["score.bias"].tolist() == [0.0]  # what there is of it stands in score_offset
    torch.testing.assert_close(scored(ScalarModel.load(str(tmp_path)).model, tokens), scored(model, tokens))
    tensors["score.bias"] = torch.tensor([2.5])
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = ScalarModel.load(str(tmp_path)).model
    torch.testing.assert_close(scored(loaded, tokens), scored(model, tokens) + 2.5, atol=1e-5, rtol=0)
