"""PPO against a judge, through the command line."""

import gc
import json

import pytest

from lightning_rlhf.cli.main import main

KEY = "sk-very-secret-0123456789"


@pytest.fixture
def fit(judge, tmp_path, monkeypatch):
    """Runs PPO in the folder of the test; gives the exit code."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    rows = [json.dumps({"prompt": f"Say {number}."}) for number in range(4)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows))
    arguments = ["fit", "--model", "PPOModule", "--model.base", "tiny"]
    arguments += [
        "--model.rewards+=judge_score",
        "--model.rewards.model=m",
        f"--model.rewards.base_url={judge.base_url}",
    ]
    arguments += ["--model.rewards.api_key_env=JUDGE_KEY", "--model.rewards.cache=verdicts.sqlite"]
    arguments += ["--model.rewards.max_attempts=2", "--model.rewards.max_wait_s=0.1", "--model.max_response_length=4"]
    arguments += ["--model.rollout_size=4", "--model.minibatch_size=4"]
    arguments += ["--data", "PromptData", "--data.source", "file", "--data.source.path=prompts.jsonl"]
    arguments += ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.default_root_dir=run"]
    return lambda: main(arguments)


def test_a_run_is_scored_by_the_judge_and_leaves_no_key(fit, judge, tmp_path, capfd):
    assert not fit()
    gc.collect()
    out, err = capfd.readouterr()
    assert "judge m: 4 requests" in err
    assert len(judge.requests) == 4
    assert "judge_score" in (tmp_path / "run" / "config.yaml").read_text()
    assert list((tmp_path / "run").rglob("*.ckpt"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert KEY not in out + err


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ({"status": 500, "body": "overloaded"}, "must be reachable, got status 500: 'overloaded' at the last of 2"),
        ("bananas", "must give a verdict that can be read, got 'bananas' when asked 2 times"),
    ],
)
def test_a_judge_that_fails_stops_the_run_with_a_message(fit, judge, capfd, script, message):
    judge.script = [script]
    assert fit() == 2
    (error,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("lightning-rlhf: error:")]
    assert message in error
