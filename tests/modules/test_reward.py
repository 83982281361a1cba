"""Reward models: what is learned, what is counted, and where zero lies."""

import json

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from transformers import AutoModelForSequenceClassification

from lightning_rlhf.batches import TokenBatch
from lightning_rlhf.builtins.templates import ChatMLTemplate
from lightning_rlhf.errors import ConfigError
from lightning_rlhf.models import LoRA, ScalarModel
from lightning_rlhf.plugin_system.interfaces import DataSource
from lightning_rlhf.records import Message, Ranking


def training_scores(module, data):
    """Scores of all responses of the training split."""
    with torch.no_grad():
        return torch.cat([module.model.scores(b.tokens, b.last_positions) for b in data.unshuffled_train_dataloader()])


@pytest.mark.parametrize("adapter", [None, LoRA(rank=2)], ids=["full", "lora"])
def test_scores_are_centred_in_module_checkpoint_and_model(kit, tmp_path, adapter):
    checkpoint = kit.every_step(tmp_path / "c", 1)
    checkpoint._every_n_train_steps, checkpoint._every_n_epochs = 0, 1
    module, data = kit.reward(adapter=adapter, centering_coef=0.0)
    trainer = kit.fit((module, data), tmp_path, callbacks=[checkpoint], enable_checkpointing=True, max_epochs=2)
    scores = training_scores(module, data)
    assert abs(float(scores.mean())) < 1e-5
    assert float(scores.std()) > 0.1
    saved = torch.load(checkpoint.best_model_path, weights_only=True)["state_dict"]
    assert torch.equal(saved["model.head.bias"], module.model.head.bias)

    loaded = ScalarModel.load(str(tmp_path / "model")).model
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    offset = json.loads((tmp_path / "model" / "config.json").read_text())["score_offset"]
    assert offset == pytest.approx(module.model.score_offset)
    batch = next(iter(data.unshuffled_train_dataloader()))
    with torch.no_grad():
        of_module, of_loaded = (model.scores(batch.tokens, batch.last_positions) for model in (module.model, loaded))
        rows = [ids[: last + 1] for ids, last in zip(batch.tokens.input_ids, batch.last_positions, strict=True)]
        raw = torch.cat([classifier(input_ids=row[None]).logits.flatten() for row in rows])
    torch.testing.assert_close(of_loaded, of_module, rtol=0, atol=1e-5)
    torch.testing.assert_close(raw - offset, of_module, rtol=0, atol=1e-5)
    assert trainer.callback_metrics["val/accuracy"] > 0.5


def test_a_run_that_stops_early_is_centred_before_its_last_checkpoint(kit, tmp_path):
    class Constant(L.Callback):
        def on_validation_end(self, trainer, module):
            trainer.callback_metrics["constant"] = torch.zeros(())

    checkpoint = kit.every_step(tmp_path / "c", 1)
    checkpoint._every_n_train_steps, checkpoint._every_n_epochs = 0, 1
    stop = EarlyStopping("constant", patience=1)
    module, data = kit.reward()
    trainer = kit.fit(
        (module, data), tmp_path, callbacks=[Constant(), stop, checkpoint], enable_checkpointing=True, max_epochs=9
    )
    assert trainer.current_epoch < 9
    last = max((tmp_path / "c").iterdir(), key=lambda path: int(path.stem.split("=")[1]))
    bias = torch.load(last, weights_only=True)["state_dict"]["model.head.bias"]
    assert torch.equal(bias, module.model.head.bias)
    assert abs(float(training_scores(module, data).mean())) < 1e-5


@pytest.mark.parametrize("loss", ["pairwise", "plackett_luce", "regression"])
def test_every_loss_learns_the_order(kit, tmp_path, loss):
    module, data = kit.reward(loss=loss, lr_schedule="constant")
    trainer = kit.fit((module, data), tmp_path, max_epochs=8)
    assert float(trainer.callback_metrics["val/accuracy"]) > 0.8


def test_a_margin_is_for_the_pairwise_loss_only(kit):
    kit.reward(margin_scale=0.5)
    with pytest.raises(ConfigError, match=r"margin_scale must be 0 unless loss is pairwise, got 0\.5"):
        kit.reward(margin_scale=0.5, loss="plackett_luce")


def test_a_margin_raises_the_loss(kit, tmp_path):
    losses = []
    for scale in (0.0, 1.0):
        trainer = kit.fit(kit.reward(margin_scale=scale, learning_rate=0.0, batch_size=12), tmp_path)
        losses.append(float(trainer.callback_metrics["train/loss"]))
    assert losses[1] > losses[0] + 0.1


class Scored(DataSource):
    """Pairs with scores far apart, which rank them as well."""

    def __init__(self, distance):
        self.distance = distance

    def load(self, split):
        return [Ranking(f"say {row}\n", ("a", "bb"), None, (self.distance, 0.0)) for row in range(3)]


def test_a_margin_is_of_the_converters_rewards_and_not_of_the_rows_scores(kit, tmp_path):
    losses = []
    for distance in (1.0, 100.0):
        run = kit.reward(margin_scale=1.0, learning_rate=0.0, data={"source": Scored(distance)})
        losses.append(float(kit.fit(run, tmp_path).callback_metrics["train/loss"]))
    assert losses[0] == losses[1]


class CutLengths(DataSource):
    """Pairs of which the better response is the longer one, by tokens that `max_length` cuts away."""

    def load(self, split):
        return [Ranking("say\n", ("a" * (40 + row), "b" * 30), ((0, 1),)) for row in range(3)]


def test_statistics_by_length_count_the_responses_before_they_were_cut(kit, tmp_path):
    module, data = kit.reward(data={"source": CutLengths(), "max_length": 16, "truncation": "right"})
    metrics = kit.trainer(tmp_path).validate(module, data, verbose=False)[0]
    assert metrics["val/longer_wins"] == 1
    assert metrics["val/accuracy_longer_preferred"] == metrics["val/accuracy"]


class Lengths(DataSource):
    """One pair per row; the better response is the longer one in two of three rows."""

    def load(self, split):
        responses = [("aaaa", "b"), ("aaa", "b"), ("a", "bbb")]
        return [Ranking(f"say {row}\n", responses[row], ((0, 1),)) for row in range(3)]


def test_accuracy_is_reported_by_which_response_is_longer(kit, tmp_path, monkeypatch):
    module, data = kit.reward(data={"source": Lengths()})
    monkeypatch.setattr(
        module,
        "_scores",
        lambda batch: batch.response_lengths.float(),  # likes length and nothing else
    )
    metrics = kit.trainer(tmp_path).validate(module, data, verbose=False)[0]
    assert metrics["val/accuracy"] == pytest.approx(2 / 3)
    assert metrics["val/longer_wins"] == pytest.approx(2 / 3)
    assert metrics["val/accuracy_longer_preferred"] == 1
    assert metrics["val/accuracy_shorter_preferred"] == 0
    monkeypatch.setattr(module, "_scores", lambda batch: torch.zeros(batch.ranks.shape))
    metrics = kit.trainer(tmp_path).validate(module, data, verbose=False)[0]
    assert metrics["val/accuracy"] == 0.5  # ties in score count one half


class Tied(DataSource):
    """All tie but in the last row, where one candidate is unranked."""

    def load(self, split):
        tied = [Ranking(f"say {row}\n", ("a", "bb"), ((0, 0),)) for row in range(3)]
        return [*tied, Ranking("say\n", ("a", "bb", "ccc"), ((1, 0, None),))]


def test_tied_rankings_count_nowhere_and_unranked_candidates_are_scored_only_in_predictions(kit, tmp_path):
    module, data = kit.reward(data={"source": Tied()})
    trainer = kit.fit((module, data), tmp_path)
    assert trainer.global_step == 1
    assert data.tallies["train"].num_unordered == 3
    (rows,) = trainer.predict(module, data)
    assert [row["response"] for row in rows][-3:] == ["a", "bb", "ccc"]
    assert len(rows) == 9


def test_predictions_are_the_scores_of_the_saved_model(kit, tmp_path):
    module, data = kit.reward()
    trainer = kit.fit((module, data), tmp_path)
    rows = [row for batch in trainer.predict(module, data) for row in batch]
    texts = [(row["prompt"], row["response"]) for row in rows]
    assert texts == [
        ("say 0\n", "a"),
        ("say 0\n", "b"),
        ("say 0\n", "cc"),
        ("say 1\n", "aa"),
        ("say 1\n", "bb"),
        ("say 1\n", "cc"),
    ]
    loaded = ScalarModel.load(str(tmp_path / "model")).model
    for row in rows:
        messages = data.formatter.encode_prompt([_user(row["prompt"])])
        ids = torch.tensor([*messages, *data.formatter.encode_response([_user(row["prompt"])], row["response"])])
        mask = torch.ones(1, len(ids), dtype=torch.bool)
        tokens = TokenBatch(ids[None], mask, torch.arange(len(ids))[None])
        with torch.no_grad():
            score = loaded.scores(tokens, torch.tensor([len(ids) - 1]))
        assert float(score) == pytest.approx(row["score"], abs=1e-5)


def test_a_fit_leaves_the_ranked_responses_of_its_validation_with_their_scores(kit, tmp_path):
    module, data = kit.reward()
    trainer = kit.fit((module, data), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    (batch,) = data.val_dataloader()
    expected = module._rows(batch, module._scores(batch).detach())
    assert [(row["prompt"], row["response"], row["label"]) for row in rows] == [
        *[("say 0\n", "a", "rank 0"), ("say 0\n", "b", "rank 1"), ("say 0\n", "cc", "rank 2")],
        *[("say 1\n", "aa", "rank 0"), ("say 1\n", "bb", "rank 1")],
        *[("say 2\n", "aaa", "rank 0"), ("say 2\n", "bbb", "rank 1"), ("say 2\n", "cc", "rank 1")],
        *[("say 3\n", "aaaa", "rank 0"), ("say 3\n", "b", "rank 1"), ("say 3\n", "cc", "rank 2")],
    ]
    assert {(row["step"], row["epoch"]) for row in rows} == {(trainer.global_step, 0)}
    # they are of the validation, before the scores were centred
    offset = module._trained_bias - float(module.model.head.bias.detach())
    for row, of_row in zip(rows, expected, strict=True):
        assert row["scores"]["score"] == pytest.approx(of_row["score"] + offset, abs=1e-4)


def _user(text):
    return Message("user", text)


def test_a_trained_reward_model_goes_on_being_trained_with_head_offset_and_template(kit, tmp_path):
    template = ChatMLTemplate()
    module, data = kit.reward(data={"template": template})
    kit.fit((module, data), tmp_path / "first", max_epochs=2)
    expected = training_scores(module, data)
    assert module.model.score_offset

    again, same = kit.reward(base=str(tmp_path / "first" / "model"), learning_rate=0.0)
    assert again.head_was_trained
    trainer = kit.fit((again, same), tmp_path / "second")
    assert isinstance(same.formatter.template, ChatMLTemplate)
    torch.testing.assert_close(training_scores(again, same), expected, rtol=0, atol=1e-5)
    rows = [row for batch in trainer.predict(again, same) for row in batch]
    loaded = ScalarModel.load(str(tmp_path / "second" / "model"))
    assert loaded.template.class_path.endswith("ChatMLTemplate")
    assert len(rows) > 2

    learning, same = kit.reward(base=str(tmp_path / "first" / "model"), adapter=LoRA(rank=2))
    kit.fit((learning, same), tmp_path / "third")
    assert not torch.allclose(training_scores(learning, same), expected, atol=1e-3)
