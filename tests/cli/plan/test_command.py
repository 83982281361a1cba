import json
import sys
from pathlib import Path

import pytest
import yaml

from lightning_rlhf.cli.main import main

TINY = {"class_path": "tiny", "init_args": {"hidden_size": 16, "num_layers": 1, "num_heads": 2}}
ROWS = {
    "sft": [{"prompt": f"say {i}", "response": "ab" * (1 + i % 4)} for i in range(10)],
    "reward": [{"prompt": f"say {i}", "responses": ["aaa", "bbbbb"], "ranks": [i % 2, 1 - i % 2]} for i in range(10)],
    "ppo": [{"prompt": f"say {i}"} for i in range(10)],
}
CLASSES = {
    "sft": ("SFTModule", "DemonstrationData"),
    "reward": ("RewardModule", "RankingData"),
    "ppo": ("PPOModule", "PromptData"),
}


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Writes the config of a stage and its rows into the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")

    def write(stage, **arguments):
        Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[stage]))
        if stage == "ppo":
            own = {"rewards": ["repetition"], "max_response_length": 8, "minibatch_size": 4, "rollout_size": 6}
            arguments = own | arguments
        module, data = CLASSES[stage]
        source = {"class_path": "file", "init_args": {"path": "rows.jsonl"}}
        text = yaml.safe_dump(
            {
                "model": {"class_path": module, "init_args": {"base": TINY, **arguments}},
                "data": {"class_path": data, "init_args": {"source": source, "batch_size": 4}},
                "trainer": {"accelerator": "cpu", "max_epochs": 2, "default_root_dir": "run"},
            }
        )
        Path("config.yaml").write_text(text)
        return "--config=config.yaml"

    return write


def planned(capsys, *words):
    assert main(["plan", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("stage", ROWS)
def test_a_plan_says_what_a_run_takes_and_leaves_nothing_behind(config, capsys, stage):
    words = config(stage)
    Path("run").mkdir()
    Path("run/metrics.csv").write_text("step\n")
    plan = planned(capsys, words)
    assert (plan["stage"], plan["device"]) == (stage, "cpu")
    assert 0 < plan["trained_parameters"] <= plan["parameters"]
    memory = plan["memory"]
    assert memory["fits"] is True
    assert set(memory["parts"]) == {
        "weights", "gradients", "optimizer", "activations", "cache", "logits", "overhead",
    }  # fmt: skip
    assert sum(memory["parts"].values()) == memory["peak"] == max(memory["phases"].values())
    assert ("sampling" in memory["phases"]) == (stage == "ppo")
    assert plan["time"]["step_s"] > 0
    assert plan["time"]["run_s"] == pytest.approx(2 * plan["time"]["epoch_s"])
    assert {path.name for path in Path().iterdir()} == {"rows.jsonl", "config.yaml", "run"}
    assert [path.name for path in Path("run").iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize("stage", ROWS)
def test_the_tables_name_every_part(config, capsys, stage):
    assert main(["plan", config(stage), "--steps=1"]) == 0
    out = capsys.readouterr().out
    for word in (
        "parameters",
        "trained",
        "weights",
        "gradients",
        "optimizer",
        "activations",
        "peak",
        "it fits",
        "step",
    ):
        assert word in out
    assert ("iteration" in out, "in the phase: sampling" in out) == (stage == "ppo", stage == "ppo")


def test_an_epoch_has_the_passes_of_all_its_rows_and_the_steps_of_its_windows(config, capsys):
    plan = planned(capsys, config("sft"), "--trainer.accumulate_grad_batches=2", "--steps=1")
    assert plan["schedule"] == {
        "passes_per_epoch": 3, "steps_per_epoch": 2, "responses_per_epoch": None, "epochs": 2.0,
    }  # fmt: skip
    time = plan["time"]
    assert time["step_s"] == pytest.approx(2 * time["pass_s"] + time["optimizer_s"])
    assert time["epoch_s"] == pytest.approx(3 * time["pass_s"] + 2 * time["optimizer_s"])


def test_an_iteration_has_its_rollout_and_all_passes_over_it(config, capsys):
    plan = planned(capsys, config("ppo", num_responses_per_prompt=2), "--steps=1", "--model.num_epochs=3")
    assert plan["schedule"]["responses_per_epoch"] == 12
    assert plan["schedule"]["passes_per_epoch"] == 9
    time = plan["time"]
    assert time["epoch_s"] == pytest.approx(time["rollout_s"] + 9 * (time["pass_s"] + time["optimizer_s"]))
    assert 1 <= time["response_length"] <= 8


@pytest.mark.parametrize(
    ("words", "epochs"),
    [
        (["--trainer.max_steps=4"], 4 / 3),
        (["--trainer.max_epochs=-1"], None),
        (["--trainer.limit_train_batches=1"], 2.0),
        (["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_steps=2"], 1.0),
    ],
)
def test_the_length_of_the_run_is_the_trainers(config, capsys, words, epochs):
    plan = planned(capsys, config("sft"), "--steps=0", *words)
    assert plan["schedule"]["epochs"] == (None if epochs is None else pytest.approx(epochs))
    assert plan["time"] is None


def test_rows_beyond_those_that_are_read_are_counted(config, capsys):
    words = config("sft")
    assert planned(capsys, words, "--rows=4", "--steps=0")["schedule"]["passes_per_epoch"] == 3
    packing = ["--data.packing=true", "--data.max_length=64", "--data.batch_size=1"]
    whole, part = (planned(capsys, words, f"--rows={rows}", "--steps=0", *packing) for rows in (512, 1))
    assert part["schedule"]["passes_per_epoch"] in (whole["schedule"]["passes_per_epoch"] + d for d in (-1, 0, 1))


def test_a_run_that_does_not_fit_is_not_tried(config, capsys, monkeypatch):
    from lightning_rlhf.cli.plan import command

    monkeypatch.setattr(command, "available_memory", lambda device: 1024)
    assert main(["plan", config("sft")]) == 0
    out = capsys.readouterr().out
    assert "it does not fit" in out
    assert "not measured" in out


@pytest.mark.parametrize("stage", ROWS)
def test_the_weights_do_not_move(config, stage, monkeypatch):
    from lightning_rlhf.cli.plan.command import plan_of
    from lightning_rlhf.cli.prepared import UnstartedRun, quiet_trainer

    with quiet_trainer():
        run = UnstartedRun([config(stage), "--model.weight_decay=0.1", "--trainer.gradient_clip_val=1"]).build()
    before = {name: weight.clone() for name, weight in run.module.named_parameters()}
    assert plan_of(run, 512, 2).times is not None
    assert all(bool((weight == before[name]).all()) for name, weight in run.module.named_parameters())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.basee=tiny"], "Did you mean base?"),
        (["--data.source.path=nowhere.jsonl"], "nowhere.jsonl"),
        (["--model.base=nowhere/at/all"], "must be an existing path"),
        (["--stage=ppo"], "got --stage ppo for a config of SFTModule"),
        (["--ckpt_path=last.ckpt"], "ckpt_path must be left out"),
        (["--config=nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_a_mistake_ends_in_exit_code_2_and_one_sentence(config, capsys, words, message):
    assert main(["plan", config("sft"), *words]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err


def test_a_bad_row_and_no_rows_are_mistakes(config, capsys):
    words = config("sft")
    with Path("rows.jsonl").open("a") as lines:
        lines.write('{"prompt": 7}\n')
    assert main(["plan", words]) == 2
    assert "rows.jsonl:11" in capsys.readouterr().err
    Path("rows.jsonl").write_text("")
    assert main(["plan", words]) == 2
    assert "at least one row" in capsys.readouterr().err


def test_numbers_of_rows_and_steps_are_checked(capsys):
    for word, least in (("--rows=0", 1), ("--steps=-1", 0)):
        with pytest.raises(SystemExit) as ended:
            main(["plan", word])
        assert ended.value.code == 2
        assert f"must be at least {least}" in capsys.readouterr().err


def test_the_command_is_in_the_help_and_says_what_the_peak_is(capsys):
    assert main(["--help"]) == 0
    assert "  plan  " in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--help"])
    assert ended.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "beyond what it has with all libraries imported and no model loaded" in out
    assert "--json" in out
