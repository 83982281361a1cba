"""PPO finds the known optimum of the objective: in total variation, over all responses there are."""

import pytest
import torch

pytestmark = pytest.mark.long

FAR, NEAR = 0.4, 0.03


def check(distances):
    """A run began far from the optimum and ended near it, for either prompt."""
    print(distances)  # for `pytest -rP`
    assert min(distances.start) >= FAR, distances
    assert max(distances.end) <= NEAR, distances


def test_the_responses_are_all_there_are(oracle):
    reference, _ = oracle.World().load()
    assert len(oracle.OUTCOMES) == len(set(oracle.OUTCOMES)) == 40
    for prompt in oracle.PROMPTS.values():
        probabilities = oracle.distribution(reference, prompt, temperature=1.0)
        torch.testing.assert_close(probabilities.sum(), torch.tensor(1.0, dtype=torch.float64), rtol=0, atol=1e-5)
        assert probabilities.min() > 1e-4  # the reference rules nothing out, or PPO could not find it


def test_ppo_ends_at_the_optimum(oracle, tmp_path):
    check(oracle.distances(tmp_path))


def test_ppo_with_lora_a_shared_trunk_and_bf16_ends_at_the_optimum(oracle, tmp_path):
    check(
        oracle.distances(
            tmp_path, "letters", 0.7, adapter=oracle.LoRA(rank=8), value_model="shared", precision="bf16-mixed"
        )
    )


CASES = {
    "one_letter": {"scores": "one_letter", "kl_coef": 0.5},
    "letters": {"scores": "letters", "kl_coef": 0.7, "num_iterations": 80},
    "letters_cheap_kl": {"scores": "letters", "kl_coef": 0.5, "num_iterations": 80},
    "letters_per_token": {"scores": "letters", "kl_coef": 0.7, "per_token": True, "num_iterations": 80},
    "arbitrary": {"scores": "arbitrary", "kl_coef": 0.4, "num_iterations": 150, "num_responses": 512},
    "one_letter_warm": {"scores": "one_letter", "kl_coef": 0.5, "temperature": 1.3},
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("value_model", ["separate", "shared"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("case", CASES)
def test_ppo_ends_at_the_optimum_in_every_arrangement(oracle, tmp_path, case, lora, value_model, precision):
    adapter = {"adapter": oracle.LoRA(rank=8)} if lora else {}
    check(oracle.distances(tmp_path, **CASES[case], **adapter, value_model=value_model, precision=precision))
