"""Fingerprints of a run's inputs beside its config, recorded in checkpoints and compared on a resume."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from lightning_rlhf.checkpoints.changed_arguments import changed_arguments
from lightning_rlhf.checkpoints.fingerprints import (
    code_fingerprints,
    config_fingerprint,
    tokenizer_fingerprint,
    weights_fingerprint,
)
from lightning_rlhf.data import RLHFData
from lightning_rlhf.errors import ModelError
from lightning_rlhf.models import LoadedModel, LoadedScalarModel
from lightning_rlhf.plugin_system.provenance import components_among

if TYPE_CHECKING:
    from lightning_rlhf.modules.base import RLHFModule

__all__ = ["RunInputs"]

_WEIGHTS = "weights"


class RunInputs:
    """Fingerprints of models, template and rows, and the moment of the first start."""

    def __init__(self) -> None:
        self._models: dict[str, dict[str, str]] = {}
        self._code: dict[str, str] = {}

    def remember(self, argument: str, loaded: LoadedModel | LoadedScalarModel) -> None:
        """Takes a model down, before anything is added to it or trained.

        Args:
            argument: that named it.
            loaded: the model and what belongs to it.
        """
        model: Any = loaded.model
        self._models[argument] = {
            _WEIGHTS: weights_fingerprint(model),
            "config": config_fingerprint(model.config if hasattr(model, "config") else model.backbone.config),
            "tokenizer": tokenizer_fingerprint(loaded.tokenizer),
            "path": loaded.name,
        }

    def remember_code(self, components: Iterable[object]) -> None:
        """Takes down the source of a person's own classes and functions."""
        self._code |= code_fingerprints(components)

    def begin(self, trainer: L.Trainer) -> None:
        """Gives the data the moment of the run's start: the date that a template writes."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        now = trainer.strategy.broadcast(datetime.now().isoformat(timespec="seconds"))
        if data.moment is None:
            data.moment = datetime.fromisoformat(now)
        self.remember_code([*components_among(vars(data)), *trainer.callbacks])  # type: ignore[attr-defined]

    def state(self, trainer: L.Trainer | None) -> dict[str, Any]:
        """What a checkpoint keeps of them."""
        state: dict[str, Any] = {"models": self._models, "code": self._code}
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, RLHFData) and data.moment is not None:
            state |= {"started": data.moment.isoformat(), "rendering": data.formatter.fingerprint}
            state["rows"] = data.row_fingerprints
        return state

    def resume(self, checkpoint: Mapping[str, Any], module: "RLHFModule") -> None:
        """Compares the inputs of a run that goes on with those of the run before, and goes on with its date.

        Args:
            checkpoint: that is loaded; with one that is evaluated only the date is gone on with.
            module: whose run it is.

        Raises:
            ModelError: files of a model have changed.
        """
        trainer: Any = module._trainer
        saved, data = checkpoint["lightning_rlhf"], getattr(trainer, "datamodule", None)
        if not isinstance(data, RLHFData):
            return
        if "started" in saved:
            data.moment = datetime.fromisoformat(saved["started"])
        if not trainer.training:
            return
        changed = changed_arguments(checkpoint.get("hyper_parameters", {}), module.hparams)
        self._compare_models(
            saved.get("models", {}),
            given_anew=changed & set(module.exchangeable_models),
            all_are_trained=all(weight.requires_grad for weight in module.parameters()),
        )
        if edited := sorted(changed_arguments(saved.get("code", {}), self._code)):
            rank_zero_warn(f"the code of {', '.join(edited)} was edited since the checkpoint was written.")
        if saved.get("rendering", data.formatter.fingerprint) != data.formatter.fingerprint:
            rank_zero_warn(
                f"the template {type(data.formatter.template).__name__} renders otherwise than in the run that wrote "
                "the checkpoint: its arguments, the tokenizer's chat template or something that they read has changed."
            )
        data.expect_rows(saved.get("rows", {}))

    def same(self, saved: Mapping[str, Mapping[str, str]], argument: str) -> bool:
        """Whether an argument names models of the same contents as in a checkpoint, wherever they lie."""
        return {name: _contents(parts) for name, parts in saved.items() if name.startswith(argument)} == {
            name: _contents(parts) for name, parts in self._models.items() if name.startswith(argument)
        }

    def _compare_models(
        self, saved: Mapping[str, Mapping[str, str]], *, given_anew: set[str], all_are_trained: bool
    ) -> None:
        for name in sorted(saved.keys() & self._models.keys()):
            before, now = _contents(saved[name]), _contents(self._models[name])
            changed = [part for part in before if before[part] != now.get(part)]
            if not changed or name.partition(" ")[0] in given_anew:
                continue
            place = repr(self._models[name]["path"])
            if changed == [_WEIGHTS] and all_are_trained:
                rank_zero_warn(
                    f"the weights in {place} are not those that the run began with. It goes on with its own, from the "
                    "checkpoint."
                )
                continue
            raise ModelError(
                f"{name} must be what it was when the run began, got another {' and '.join(changed)} in {place}. Put "
                "its files back, or begin a new run from the `model` directory that this one has trained."
            )


def _contents(parts: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in parts.items() if name != "path"}
