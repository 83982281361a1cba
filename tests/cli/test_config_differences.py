from lightning_rlhf.cli.config_differences import config_differences

BEFORE = """
seed_everything: 1
model: {class_path: PPOModule, init_args: {rewards: [{class_path: length, init_args: {target: 3}}], kl_coef: 0.1}}
trainer: {max_epochs: 1, default_root_dir: a, callbacks: null}
ckpt_path: null
"""


def test_the_same_config_has_no_difference():
    assert config_differences(BEFORE, BEFORE) == []


def test_there_is_one_line_for_each_argument_that_differs():
    now = BEFORE.replace("target: 3", "target: 4").replace("max_epochs: 1", "max_epochs: 2").replace("0.1", "null")
    assert config_differences(BEFORE, now) == [
        "model.init_args.kl_coef: 0.1 -> null",
        "model.init_args.rewards.0.init_args.target: 3 -> 4",
        "trainer.max_epochs: 1 -> 2",
    ]


def test_what_is_there_on_one_side_only_is_said_to_be():
    now = BEFORE.replace("callbacks: null", "callbacks: [{class_path: EarlyStopping}]").replace(", kl_coef: 0.1", "")
    assert config_differences(BEFORE, now) == [
        "model.init_args.kl_coef: 0.1 -> (not there)",
        "trainer.callbacks.0.class_path: (not there) -> EarlyStopping",
    ]


def test_how_a_run_is_started_is_no_difference():
    now = BEFORE.replace("default_root_dir: a", "default_root_dir: b").replace("ckpt_path: null", "ckpt_path: last")
    assert config_differences(BEFORE, now) == []
