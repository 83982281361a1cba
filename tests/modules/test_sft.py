"""Supervised fine-tuning: the terms of the loss, the noise, and what is shown."""

import math

import pytest
import torch
import torch.nn.functional as F

from lightning_rlhf.plugin_system.interfaces import DataSource
from lightning_rlhf.records import Demonstration, Message, Text


def first_batch(kit, path, module, data):
    trainer = kit.trainer(path)
    trainer.strategy.connect(module)
    data.trainer = trainer
    return next(iter(data.train_dataloader()))


def test_the_loss_is_the_task_term_plus_the_coefficient_times_the_text_term(kit, tmp_path):
    module, data = kit.sft(lm_coef=0.3)
    batch = first_batch(kit, tmp_path, module, data)
    task, text, num_task, num_text = 0.0, 0.0, 0, 0
    with torch.no_grad():
        for ids, labels, mask in zip(batch.tokens.input_ids, batch.labels, batch.tokens.attention_mask, strict=True):
            length = int(mask.sum())
            logits = module.model.model(input_ids=ids[None, :length]).logits[0]
            for place in range(1, length):
                surprise = -float(F.log_softmax(logits[place - 1].double(), -1)[ids[place]])
                text, num_text = text + surprise, num_text + 1
                if labels[place] != -100:
                    task, num_task = task + surprise, num_task + 1
        loss = module._task_loss(batch, num_targets=torch.tensor(num_task))
        loss = module._task_loss(batch._replace(num_tokens=torch.tensor(num_text)), num_targets=torch.tensor(num_task))
    assert 0 < num_task < num_text
    assert float(loss) == pytest.approx(task / num_task + 0.3 * text / num_text, rel=1e-5)


def test_packed_rows_have_the_loss_of_unpacked_ones(kit, tmp_path):
    losses = []
    for packing in (False, True):
        run = kit.sft(batch_size=12, lm_coef=0.3, learning_rate=0.0, data={"packing": packing, "max_length": 64})
        trainer = kit.fit(run, tmp_path)
        losses.append([float(trainer.callback_metrics[name]) for name in ("train/loss", "val/loss")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


class Unequal(DataSource):
    """Rows of 5 to 120 tokens."""

    def load(self, split):
        lengths = (1, 115, 30) if split == "train" else (3,)
        return [Demonstration((Message("user", "?"), Message("assistant", "x" * length))) for length in lengths]


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("source", ["alike", "unequal"])
def test_noise_is_added_in_training_steps_only_and_has_the_scale_of_each_document(kit, tmp_path, packing, source):
    rows = {"source": kit.Demonstrations() if source == "alike" else Unequal()}
    module, data = kit.sft(neftune_alpha=5.0, learning_rate=0.0, data={"packing": packing, "max_length": 160, **rows})
    noisy = []
    embedding = module.model.model.get_input_embeddings()

    def watch(layer, args, output):
        training = module.trainer.training and not module.trainer.sanity_checking
        noisy.append((training, args[0], (output - layer.weight[args[0]]).detach()))

    embedding.register_forward_hook(watch)
    kit.fit((module, data), tmp_path, max_steps=1)
    trained = [(ids, noise) for training, ids, noise in noisy if training and noise.any()]
    quiet = [noise for training, _, noise in noisy if not training]
    assert quiet
    assert not any(noise.any() for noise in quiet)
    assert len(trained) == 1
    batch = first_batch(kit, tmp_path, module, data)
    ids, noise = trained[0]
    assert torch.equal(ids, batch.tokens.input_ids)
    lengths = []
    for row in range(len(ids)):
        segments = batch.tokens.segment_ids
        documents = range(int(segments[row].max()) + 1) if packing else [0]
        for document in documents:
            inside = batch.tokens.attention_mask[row] & (segments[row] == document if packing else True)
            lengths.append(int(inside.sum()))
            bound = 5.0 / math.sqrt(lengths[-1] * 16)
            largest = float(noise[row][inside].abs().max())
            assert 0.9 * bound < largest <= bound * (1 + 1e-5)
            assert abs(float(noise[row][inside].mean())) < 0.3 * bound
    assert source == "alike" or max(lengths) > 15 * min(lengths)


class LongRows(DataSource):
    """A prompt that fills the model's positions."""

    def load(self, split):
        return [Demonstration((Message("user", "x" * 100), Message("assistant", "yes")))] * 2


def test_a_row_as_long_as_the_model_still_gets_its_sample(kit, tmp_path):
    module, data = kit.sft(base=kit.model(max_positions=32), data={"source": LongRows(), "max_length": 32})
    kit.fit((module, data), tmp_path)
    assert (tmp_path / "samples.jsonl").read_text().count("\n") == 2


class Texts(DataSource):
    def load(self, split):
        return [Text("once upon a time there was a model"), Text("a")]


def test_text_is_learned_too_and_its_samples_go_on_from_its_first_words(kit, tmp_path):
    module, data = kit.sft(data={"source": Texts()})
    shown = []
    module.take_samples = lambda: shown.extend(module._samples) or module._samples
    trainer = kit.fit((module, data), tmp_path)
    assert shown[0].prompt.startswith("once upon")
    assert len(shown[0].prompt) < 20
    assert math.exp(trainer.callback_metrics["val/loss"]) == pytest.approx(
        float(trainer.callback_metrics["val/perplexity"]), rel=1e-4
    )


@pytest.mark.parametrize(("text", "prompt"), [("abcdefgh", 5), ("abc", 2), ("a", 1), ("x" * 100, 16)])
def test_the_sample_of_a_text_goes_on_after_its_first_half_and_no_more_than_16_tokens(
    kit, tmp_path, monkeypatch, text, prompt
):
    """Beginning and end count as tokens."""

    class One(DataSource):
        def load(self, split):
            return [Text(text)]

    module, data = kit.sft(data={"source": One()})
    prompts = []
    monkeypatch.setattr(module, "_respond", lambda ids, mask: [prompts.extend(mask.sum(-1).tolist()) or ""] * len(ids))
    kit.trainer(tmp_path, callbacks=[]).validate(module, data, verbose=False)
    assert prompts == [prompt]


def test_predictions_answer_the_prompts_of_the_test_split(kit, tmp_path):
    module, data = kit.sft()
    rows = [row for batch in kit.trainer(tmp_path).predict(module, data) for row in batch]
    assert [row["prompt"] for row in rows] == ["say 0\n", "say 1\n"]
    assert all(isinstance(row["response"], str) for row in rows)


def test_dropout_of_the_base_is_active_in_training(kit):
    module, _ = kit.sft()
    assert module.training
    assert module.model.model.training
