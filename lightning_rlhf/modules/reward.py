"""A reward model from rankings."""

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_rlhf.arguments import require, require_at_least, require_one_of
from lightning_rlhf.batches import RankingBatch
from lightning_rlhf.callbacks import Sample, averaged_weights
from lightning_rlhf.data import DemonstrationData, RankingData
from lightning_rlhf.functional import (
    centering_penalty,
    pairwise_ranking_loss,
    plackett_luce_loss,
    regression_loss,
)
from lightning_rlhf.models import (
    LoRA,
    add_adapter,
    enable_gradient_checkpointing,
    load_scoring_base,
    require_savable_reward_model,
    save_reward_model,
)
from lightning_rlhf.modules.base import RLHFModule
from lightning_rlhf.modules.metrics import MeanPerItem, RankingAccuracy
from lightning_rlhf.modules.optimization import LRSchedule
from lightning_rlhf.plugin_system.interfaces import ModelSource

__all__ = ["RewardModule"]

RankingLoss = Literal["pairwise", "plackett_luce", "regression"]

_PAIRS = {"accuracy": "all", "accuracy_longer_preferred": "longer", "accuracy_shorter_preferred": "shorter"}


class RewardModule(RLHFModule):
    """A reward model from rankings of K responses (Ouyang et al. 2022, equation 1).

    All pairs of a prompt form one batch element from K forward rows; a prompt weighs the same whatever its K. After
    training the scores are centred: mean 0 over the training split's responses. Data: RankingData.

    Args:
        base: the model to start from: a model component, a directory, a .gguf file or a hub id. A language model gets a
            new head; a reward model goes on from its own, with the scores that it gives.
        adapter: LoRA settings, or null to train all weights.
        gradient_checkpointing: recompute activations in the backward pass: less memory, a third more time.
        trust_remote_code: run Python code that comes with the base's directory or hub id.
        learning_rate: peak learning rate of AdamW.
        weight_decay: decay of weight matrices; biases and norms are not decayed.
        warmup_steps: optimizer steps of linear warm-up.
        lr_schedule: what follows the warm-up; linear and cosine end at zero.
        loss: pairwise (Bradley-Terry over all pairs), plackett_luce (the whole order), regression (squared error to the
            rows' scores, or to the converter's rewards).
        centering_coef: weight of the mean of (r_w + r_l)^2, which keeps scores near zero while training; 0 = off.
        margin_scale: pairs must differ by this times the row's own margin, else the difference of the converter's
            rewards; pairwise only; 0 = off.
    """

    stage: ClassVar[str] = "reward"
    data = RankingData
    predict_data = (DemonstrationData,)
    scores_responses: ClassVar[bool] = True
    """What `predict` gives: scores of the rows' responses, and no responses of its own."""

    def __init__(
        self,
        base: ModelSource | str,
        # model
        adapter: LoRA | None = None,
        gradient_checkpointing: bool = False,
        trust_remote_code: bool = False,
        # optimizer
        learning_rate: float = 1e-5,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        lr_schedule: LRSchedule = "linear",
        # loss
        loss: RankingLoss = "pairwise",
        centering_coef: float = 0.0,
        margin_scale: float = 0.0,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate, weight_decay=weight_decay, warmup_steps=warmup_steps, lr_schedule=lr_schedule
        )
        require_at_least(0, centering_coef=centering_coef, margin_scale=margin_scale)
        require_one_of(RankingLoss, "loss", loss)
        require(not margin_scale or loss == "pairwise", "margin_scale", "be 0 unless loss is pairwise", margin_scale)
        dropout = 0.0 if adapter is None else adapter.dropout
        require(dropout == 0, "dropout of LoRA", "be 0 for a reward model", dropout)
        self.record_arguments()
        loaded = load_scoring_base(base, seed=self.seed, trust_remote_code=trust_remote_code)
        self.tokenizer, self.recorded_template = loaded.tokenizer, loaded.template
        self.inputs.remember("base", loaded.source)
        self.model = loaded.model
        self.head_was_trained = loaded.is_trained
        if adapter is not None:
            self.model.backbone = add_adapter(self.model.backbone, adapter, seed=self.seed)
        if gradient_checkpointing:
            enable_gradient_checkpointing(self.model.backbone)
        self.base_name = loaded.name
        self.loss = loss
        self.centering_coef = centering_coef
        self.margin_scale = margin_scale
        self.heldout_loss = MeanPerItem()
        self.accuracies = nn.ModuleDict({name: RankingAccuracy(pairs) for name, pairs in _PAIRS.items()})
        self.length_accuracy = RankingAccuracy()
        self._trained_bias: float | None = None
        """The head's bias before the scores were centred; None while they are not. Training goes on from it."""
        self._average_is_centred = False
        """Whether that was the bias of averaged weights, and not of those in training."""
        self._samples: list[Sample] = []
        self.finish_loading()

    def networks(self) -> Iterable[nn.Module]:
        """Backbone and head."""
        return [self.model]

    def outputs(self, batch: RankingBatch) -> Tensor:
        """The scores."""
        return self._scores(batch)

    def parameter_groups(self) -> Iterable[Mapping[str, Any]]:
        """One group: all trained weights and the head."""
        return [{"params": self.model.parameters(), "lr": self.learning_rate, "name": "reward_model"}]

    def export(self, path: Path) -> None:
        """Centres the scores, unless the last epoch's end did, and writes `model/`."""
        if self._trained_bias is None:
            self._shift_scores()  # of the weights as they are: averages have taken their place by now
        super().export(path)

    def write_model(self, path: Path) -> None:
        """Writes `model/` for AutoModelForSequenceClassification."""
        record = self.template_record
        save_reward_model(self.model, self.tokenizer, path, record, base_name=self.base_name, plugins=self.plugins)

    def require_savable(self) -> None:
        """Tries to merge and convert the backbone."""
        require_savable_reward_model(self.model)

    # Training

    def on_train_batch_start(self, batch: RankingBatch, batch_idx: int) -> None:
        """Takes the centring back when training goes on: a resumed run learns exactly as an uninterrupted one."""
        if self._trained_bias is not None:
            shifted = averaged_weights(self.trainer, self, due=False) if self._average_is_centred else nullcontext()
            with torch.no_grad(), shifted:
                self.model.head.bias.fill_(self._trained_bias)
            self._trained_bias = None

    def training_step(self, batch: RankingBatch, batch_idx: int) -> Tensor:
        """The micro-batch's share of the window's loss."""
        loss = self._ranking_loss(self._scores(batch), batch, batch.num_prompts)
        self.window_loss.update(loss)
        return loss * self.loss_scale

    def on_train_epoch_end(self) -> None:
        """Centres the scores after the last epoch, in time for its checkpoint."""
        trainer = self.trainer
        max_epochs = trainer.max_epochs if trainer.max_epochs is not None else -1
        if trainer.should_stop or trainer.current_epoch + 1 == max_epochs or trainer.global_step == trainer.max_steps:
            self._centre_scores()

    def _scores(self, batch: RankingBatch) -> Tensor:
        """Scores `(B, K)`, 0 where there is no candidate."""
        rows = self.model.scores(batch.tokens, batch.last_positions)
        scores = torch.zeros(batch.candidate_mask.shape, dtype=rows.dtype, device=rows.device)
        return scores.masked_scatter(batch.candidate_mask, rows)

    def _ranking_loss(self, scores: Tensor, batch: RankingBatch, num_prompts: Tensor | int | None) -> Tensor:
        ranks, mask = batch.ranks, batch.candidate_mask
        rewards, targets = batch.reward_bits.view(torch.float32), batch.target_bits.view(torch.float32)
        match self.loss:
            case "pairwise":
                margins = self.margin_scale * (rewards[:, :, None] - rewards[:, None, :]) if self.margin_scale else None
                loss = pairwise_ranking_loss(scores, ranks, mask, margins=margins, num_prompts=num_prompts)
            case "plackett_luce":
                loss = plackett_luce_loss(scores, ranks, mask, num_prompts=num_prompts)
            case "regression":
                loss = regression_loss(scores, targets, mask, num_prompts=num_prompts)
        if self.centering_coef:
            loss = loss + self.centering_coef * centering_penalty(scores, ranks, mask, num_prompts=num_prompts)
        return loss

    def _centre_scores(self) -> None:
        """Has the model that the run leaves score the training split's responses 0 on average; once is enough."""
        if self._trained_bias is None:
            with averaged_weights(self.trainer, self) as self._average_is_centred:
                self._shift_scores()

    def _shift_scores(self) -> None:
        """Shifts the head's bias, and keeps what it was."""
        mean = MeanPerItem().to(self.device)
        was_training = self.training
        self.eval()
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            for batch in self.trainer.datamodule.unshuffled_train_dataloader():  # type: ignore[attr-defined]
                placed: RankingBatch = self.trainer.strategy.batch_to_device(batch)
                rows = self.model.scores(placed.tokens, placed.last_positions)
                mean.update(rows.sum(), len(rows))
        self.train(was_training)
        bias = self.model.head.bias.detach()
        self._trained_bias = float(bias.full_tensor() if isinstance(bias, DTensor) else bias)
        self.model.shift_scores(-mean.compute())

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the bias that training goes on from."""
        super().on_save_checkpoint(checkpoint)
        if self.trainer.training and self.trainer.should_stop:
            self._centre_scores()  # early stopping decides after the epoch's end; the weights here are not yet written
        checkpoint["lightning_rlhf"]["reward"] = {
            "trained_bias": self._trained_bias,
            "average_is_centred": self._average_is_centred,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on with it."""
        super().on_load_checkpoint(checkpoint)
        saved = checkpoint["lightning_rlhf"]["reward"]
        self._trained_bias = saved["trained_bias"]
        self._average_is_centred = saved.get("average_is_centred", False)

    # Validation, test, predict

    def validation_step(self, batch: RankingBatch, batch_idx: int) -> None:
        """Adds to held-out loss and accuracies; the first batch's first prompts become samples."""
        scores = self._add_heldout(batch)
        if batch_idx == 0:
            self._samples = [
                Sample(row["prompt"], row["response"], {"score": row["score"]}, label=f"rank {row['rank']}")
                for row in self._rows(batch, scores)[:16]
            ]

    def on_validation_epoch_end(self) -> None:
        """Logs `val/loss`, `val/accuracy`, its split by length, and what "the longer one wins" would reach."""
        self._log_heldout("val")

    def test_step(self, batch: RankingBatch, batch_idx: int) -> None:
        """Adds to held-out loss and accuracies."""
        self._add_heldout(batch)

    def on_test_epoch_end(self) -> None:
        """Logs the same metrics under `test/`."""
        self._log_heldout("test")

    def predict_step(self, batch: RankingBatch, batch_idx: int) -> list[dict[str, Any]]:
        """A score for every response."""
        return self._rows(batch, self._scores(batch))

    def take_samples(self) -> list[Sample]:
        """The samples of the last validation, once."""
        samples, self._samples = self._samples, []
        return samples

    def _add_heldout(self, batch: RankingBatch) -> Tensor:
        scores = self._scores(batch)
        num_prompts = _num_ordered_prompts(batch)
        if num_prompts:
            self.heldout_loss.update(self._ranking_loss(scores, batch, 1), num_prompts)
            for metric in self.accuracies.values():
                metric.update(scores, batch.ranks, batch.candidate_mask, batch.whole_lengths)  # type: ignore[operator]
            self.length_accuracy.update(
                batch.whole_lengths.float(), batch.ranks, batch.candidate_mask, batch.whole_lengths
            )
        return scores

    def _log_heldout(self, split: str) -> None:
        values: dict[str, Any] = {"loss": self.heldout_loss.compute(), "longer_wins": self.length_accuracy.compute()}
        values |= {name: metric.compute() for name, metric in self.accuracies.items()}  # type: ignore[operator]
        for name, value in values.items():
            self.log_global({f"{split}/{name}": value}, prog_bar=name in ("loss", "accuracy"))
        for metric in (self.heldout_loss, self.length_accuracy, *self.accuracies.values()):
            metric.reset()  # type: ignore[operator]

    def _rows(self, batch: RankingBatch, scores: Tensor) -> list[dict[str, Any]]:
        rows = []
        formatter = self.trainer.datamodule.formatter  # type: ignore[attr-defined]
        lengths = batch.response_lengths[batch.candidate_mask].tolist()
        flat = zip(scores[batch.candidate_mask].tolist(), batch.ranks[batch.candidate_mask].tolist(), strict=True)
        for index, (score, rank) in enumerate(flat):
            end = int(batch.last_positions[index]) + 1
            ids = batch.tokens.input_ids[index, :end].tolist()
            cut = end - lengths[index]
            rows.append(
                {
                    "prompt": formatter.decode(ids[:cut]),
                    "response": formatter.decode_response(ids[cut:]),
                    "rank": rank if rank >= 0 else None,
                    "score": score,
                }
            )
        return rows


def _num_ordered_prompts(batch: RankingBatch) -> Tensor:
    """Prompts with at least one ordered pair: the candidates do not all tie."""
    big = torch.iinfo(torch.int64).max
    lowest = batch.ranks.masked_fill(~batch.candidate_mask, big).amin(-1)
    highest = batch.ranks.masked_fill(~batch.candidate_mask, -1).amax(-1)
    return (highest > lowest).sum()
