import pytest
import torch

from lightning_rlhf.errors import ConfigError
from lightning_rlhf.rollout.normalization import ScoreNormalizer, global_moments


def alone(total):
    return total


def test_moments_are_those_of_all_scores_so_far():
    batches = [torch.randn(5, generator=torch.Generator().manual_seed(seed)) * 3 + 1000 for seed in range(4)]
    normalizer = ScoreNormalizer()
    for batch in batches:
        normalizer.update(batch, torch.ones(5, dtype=torch.bool), alone)
    everything = torch.cat(batches).double()
    assert normalizer.mean == pytest.approx(float(everything.mean()), rel=1e-9)
    assert normalizer.deviation == pytest.approx(float(everything.std(unbiased=False)), rel=1e-9)
    normalized = normalizer.normalize(everything)
    assert float(normalized.mean()) == pytest.approx(0, abs=1e-6)
    assert float(normalized.std(unbiased=False)) == pytest.approx(1, rel=1e-6)


def test_scores_that_no_loss_reads_change_nothing():
    kept, everything = ScoreNormalizer(), ScoreNormalizer()
    kept.update(torch.tensor([1.0, 2.0]), torch.tensor([True, True]), alone)
    everything.update(torch.tensor([1.0, 1e9, 2.0]), torch.tensor([True, False, True]), alone)
    everything.update(torch.tensor([1e9]), torch.tensor([False]), alone)
    assert kept.state_dict() == everything.state_dict()


def test_moments_are_summed_over_ranks():
    # the other rank holds the same scores: counts and sums double, moments stay
    count, mean, variance = global_moments(
        torch.tensor([1.0, 3.0]), torch.tensor([True, True]), lambda total: 2 * total
    )
    assert (count, mean, variance) == (4.0, 2.0, 1.0)


def test_nothing_kept_gives_zeros():
    assert global_moments(torch.tensor([5.0]), torch.tensor([False]), alone) == (0.0, 0.0, 0.0)


def test_before_a_score_is_kept_scores_stay_what_they_are():
    normalizer = ScoreNormalizer(epsilon=1e-12)
    normalizer.update(torch.tensor([1e9, -3.0]), torch.tensor([False, False]), alone)
    assert normalizer.normalize(torch.tensor([4.0, -2.0])).tolist() == [4.0, -2.0]
    normalizer.update(torch.tensor([1.0, 3.0]), torch.tensor([True, True]), alone)
    assert (normalizer.mean, normalizer.deviation) == (2.0, 1.0)


def test_a_saved_state_goes_on_exactly():
    first = ScoreNormalizer()
    first.update(torch.tensor([1.0, 4.0]), torch.tensor([True, True]), alone)
    second = ScoreNormalizer()
    second.load_state_dict(first.state_dict())
    for normalizer in (first, second):
        normalizer.update(torch.tensor([7.0, -2.0]), torch.tensor([True, True]), alone)
    assert first.state_dict() == second.state_dict()


def test_without_centring_scores_keep_their_sign():
    normalizer = ScoreNormalizer(center=False)
    normalizer.update(torch.tensor([1.0, 3.0]), torch.tensor([True, True]), alone)
    assert normalizer.normalize(torch.tensor([1.0, 3.0])).tolist() == pytest.approx([1.0, 3.0], rel=1e-6)


def test_the_clip_bounds_the_normalised_score():
    normalizer = ScoreNormalizer(clip=0.5)
    normalizer.update(torch.tensor([1.0, 3.0]), torch.tensor([True, True]), alone)
    assert normalizer.normalize(torch.tensor([1.0, 3.0])).tolist() == [-0.5, 0.5]


@pytest.mark.parametrize("arguments", [{"clip": 0.0}, {"epsilon": 0.0}])
def test_arguments_that_break_a_rule_are_errors(arguments):
    with pytest.raises(ConfigError, match="must be positive"):
        ScoreNormalizer(**arguments)
