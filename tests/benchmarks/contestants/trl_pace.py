"""What TRL's trainers are given, and how their epochs are repetitions."""

from typing import Any

from transformers import TrainerCallback

from contestants.counting import Counts


def common_settings(spec: dict[str, Any], rows_per_step: int) -> dict[str, Any]:
    """The best that they have for this machine: no recomputation, no bf16 that it would have to imitate, no logging.

    Args:
        spec: the row's; `micro_batch` limits the rows of a forward pass, in so many equal parts of a step as it takes.
        rows_per_step: rows of the trainer that one optimizer step sees.
    """
    most = spec.get("micro_batch", rows_per_step)
    sizes = (size for size in range(rows_per_step, 0, -1) if rows_per_step % size == 0 and size <= most)
    micro_batch = next(sizes)
    return {
        "output_dir": "trl",
        "use_cpu": True,
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": rows_per_step // micro_batch,
        "num_train_epochs": 1000,
        "learning_rate": spec["learning_rate"],
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": 0,
    }


class StepPace(TrainerCallback):
    """Waits before every epoch and reports after its last step.

    Args:
        pace: what to report to.
        counts: what the trainer adds its steps to.
    """

    def __init__(self, pace: Any, counts: Counts) -> None:
        self._pace = pace
        self._counts = counts

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        num_parameters = sum(parameter.numel() for parameter in kwargs["model"].parameters())
        self._pace.ready(num_parameters=num_parameters)
        if not self._pace.wait():
            self._pace.leave()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._pace.next(**self._counts.take())
