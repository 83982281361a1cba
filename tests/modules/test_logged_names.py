"""The numbers of an iteration stand in the log under the names of the field, one row of them per iteration."""

NAMES = {
    "objective/kl",
    "objective/entropy",
    "objective/scores",
    "objective/rlhf_reward",
    "policy/approx_kl",
    "policy/clip_fraction",
    "value/explained_variance",
    "rollout/response_length",
    "rollout/stop_rate",
}


def test_every_iteration_of_ppo_is_logged_whole(kit, tmp_path):
    _, rows = kit.logged(lambda: kit.ppo(kl_coef=0.1), tmp_path, max_epochs=2, limit_val_batches=0)
    iterations = [row for row in rows if "objective/kl" in row]
    assert len(iterations) == 2
    for row in iterations:
        assert row.keys() >= NAMES, NAMES - row.keys()
        values = {name: float(row[name]) for name in NAMES}
        expected = values["objective/scores"] - 0.1 * values["objective/kl"]
        assert abs(values["objective/rlhf_reward"] - expected) < 1e-5
        assert 0 <= values["policy/clip_fraction"] <= 1
        assert 0 <= values["rollout/stop_rate"] <= 1
        assert 1 <= values["rollout/response_length"] <= 6
