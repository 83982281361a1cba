"""A model whose padding token ends responses, or that has none, trains exactly as one with a token for each."""

import pytest
import torch

from lightning_rlhf.plugin_system.interfaces import ModelSource, RewardFunction


class Length(RewardFunction):
    """Tokens of a response: of a sampled padding token the text depends on whether it is special."""

    def __call__(self, prompts, responses, *, response_tokens, **columns):
        return [float(len(tokens)) for tokens in response_tokens]


STAGES = {
    "sft": lambda kit, base: kit.sft(base=base, lm_coef=0.3),
    "reward": lambda kit, base: kit.reward(base=base),
    "ppo": lambda kit, base: kit.ppo(base=base, rewards=[Length()]),
}


class Padded(ModelSource):
    """A model as if it had been published with another padding token."""

    def __init__(self, source, pad_token):
        self.source, self.pad_token = source, pad_token

    def load(self):
        model, tokenizer = self.source.load()
        tokenizer.pad_token = self.pad_token
        model.config.pad_token_id = tokenizer.pad_token_id
        # as transformers builds it: of this token's embedding it keeps the gradient at zero
        model.get_input_embeddings().padding_idx = tokenizer.pad_token_id
        return model, tokenizer


@pytest.mark.filterwarnings("ignore:all 8 responses of iteration")  # they may well be of one length
@pytest.mark.parametrize("stage", STAGES)
def test_loss_gradients_do_not_depend_on_the_padding_token(kit, tmp_path, stage):
    steps = [
        kit.gradients(lambda pad=pad: STAGES[stage](kit, Padded(kit.model(), pad)), tmp_path / name)
        for name, pad in {"own": "<pad>", "eos": "</s>", "none": None}.items()
    ]
    assert len(steps[0]) >= 3
    for others in steps[1:]:
        for gradients, expected in zip(others, steps[0], strict=True):
            assert gradients.keys() == expected.keys()
            for name, gradient in gradients.items():
                assert torch.equal(gradient, expected[name]), name
