"""The gradient of an optimizer step does not depend on how its rows are cut into micro-batches."""

import pytest
import torch

OPTIONS = {
    "sft": {"lm_coef": 0.3},
    "sft packed": {"lm_coef": 0.3, "data": {"packing": True, "max_length": 40}},
    "reward": {"centering_coef": 0.2},
    "ppo": {"learning_rate": 0.0, "rollout_size": 12, "num_epochs": 1},
}


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        assert any(gradient.abs().max() > 0 for gradient in one.values())
        for name, gradient in one.items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", list(OPTIONS))
def test_the_gradient_does_not_depend_on_the_cut_into_micro_batches(kit, tmp_path, name):
    # 12 rows in windows of 8: the last window of the epoch is a short one
    stage, options = name.split()[0], OPTIONS[name]
    size = "minibatch_size" if stage == "ppo" else "batch_size"
    runs = [
        kit.gradients(
            lambda rows=rows: kit.stage(stage, **{"learning_rate": 0.0, **options, size: rows}),
            tmp_path,
            accumulate_grad_batches=8 // rows,
        )
        for rows in (8, 4, 1)
    ]
    assert len(runs[0]) == (1 if name == "sft packed" else 2)
    assert_same(runs[0], runs[1])
    assert_same(runs[0], runs[2])


def test_the_ptx_term_does_not_depend_on_the_cut_either(kit, tmp_path):
    options = {"ptx_coef": 0.7, "learning_rate": 0.0, "data": {"ptx_source": kit.Demonstrations()}}
    runs = [
        kit.gradients(
            lambda rows=rows: kit.ppo(minibatch_size=rows, **options), tmp_path, accumulate_grad_batches=8 // rows
        )
        for rows in (8, 2)
    ]
    assert_same(*runs)
    without = kit.gradients(lambda: kit.ppo(minibatch_size=8, learning_rate=0.0), tmp_path)
    with pytest.raises(AssertionError):
        assert_same(runs[0], without)


def test_the_rows_generated_at_a_time_change_nothing(kit, tmp_path):
    runs = [kit.gradients(lambda size=size: kit.ppo(batch_size=size), tmp_path) for size in (3, 8)]
    assert_same(*runs)
