"""The demo from start to end, with a handful of steps per stage."""

import json

import pytest

from lightning_rlhf.cli.demo import command, configs
from lightning_rlhf.cli.demo.corpus import Corpus, read_corpus
from lightning_rlhf.cli.main import main


@pytest.fixture
def hasty(monkeypatch):
    """Two steps per stage, a model of a few thousand parameters, and few rankings."""
    original = configs.stage_config

    def few_steps(stage, output, *, seed):
        config = original(stage, output, seed=seed)
        config["trainer"] |= {"max_epochs": 1, "check_val_every_n_epoch": 1, "limit_train_batches": 2}
        config["trainer"]["enable_progress_bar"] = False
        config["model"]["init_args"]["warmup_steps"] = 0
        if stage == "ppo":
            config["model"]["init_args"] |= {"rollout_size": 8, "minibatch_size": 4}
        return config

    monkeypatch.setattr(configs, "stage_config", few_steps)
    for name, value in {"vocabulary_size": 300, "hidden_size": 16, "num_layers": 1, "num_heads": 2}.items():
        monkeypatch.setitem(configs.BASE, name, value)
    # two steps teach no word that a lexicon knows
    monkeypatch.setattr(command, "sentiment_scorer", lambda: lambda text: len(set(text)) % 7 / 7)
    monkeypatch.setattr(command, "_PRETRAINING_ROUNDS", 1)
    monkeypatch.setattr(command, "_NUM_RANKED", 60)
    corpus = read_corpus()
    monkeypatch.setattr(command, "read_corpus", lambda: Corpus(corpus.train[:200], corpus.heldout[:20]))
    monkeypatch.setattr(command, "_NUM_JUDGED", 1)


def test_the_demo_leaves_a_report_its_results_and_a_run_per_stage(hasty, tmp_path, capsys):
    output = tmp_path / "demo"
    assert main(["demo", "--output", str(output), "--seed", "3"]) == 0
    shown = capsys.readouterr().out
    for stage in configs.STAGES:
        assert f"$ lightning-rlhf fit --config {output}/configs/{stage}.yaml" in shown
        assert (output / stage / "model" / "config.json").is_file()
    assert "held-out pair accuracy" in shown
    assert "rank correlation of" in shown
    results = json.loads((output / "results.json").read_text(encoding="utf-8"))
    assert results["seed"] == 3
    assert len(results["targets"]) == 7
    assert results["before"]["kl"] == 0.0
    page = (output / "report.html").read_text(encoding="utf-8")
    assert page.count("<table>") == 3
    assert "data:image/png;base64," in page
    assert "://" not in page.split("base64,")[0]  # nothing is loaded from elsewhere


def test_a_folder_that_is_in_use_is_refused_and_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("keep")
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert "must be an empty folder or a new one" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
