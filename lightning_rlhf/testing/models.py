"""The contract of models."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from lightning_rlhf.plugin_system.interfaces import ModelSource
from lightning_rlhf.testing.contract import Contract, described
from lightning_rlhf.testing.network import without_network

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lightning_rlhf.models import LoadedModel

__all__ = ["ModelSourceContract"]


class ModelSourceContract(Contract[ModelSource]):
    """What every model must do.

    Example:
        class TestMyModel(ModelSourceContract):
            component = "my_model"
    """

    __test__ = False
    kind = "model"

    text: ClassVar[str] = "Once upon a time, there was a cat."
    """What the model reads."""
    _loaded: ClassVar["LoadedModel | None"] = None

    def test_generates(self) -> None:
        """Greedy tokens from finite logits, all of them in its tokenizer's vocabulary."""
        import torch

        from lightning_rlhf.rollout.sampling import sample_responses

        model, tokenizer, *_ = self.loaded()
        ids = self._ids(tokenizer)
        size = _num_embeddings(model)
        assert len(tokenizer) <= size, (
            f"{self.subject} must have an embedding for each token, got {size} for a vocabulary of {len(tokenizer)}."
        )
        try:
            sample_responses(
                model,
                ids,
                torch.ones_like(ids, dtype=torch.bool),
                None,
                stop_ids=self._stop_ids(),
                max_response_length=8,
                greedy=True,
            )
        except Exception as error:
            raise AssertionError(f"{self.subject} must generate, got {described(error)}.") from error

    def test_has_a_stop_token(self) -> None:
        """The tokenizer has an EOS that the model knows, or responses never end."""
        assert self._stop_ids()

    def test_loads_the_same_again(self) -> None:
        """A run loads a model twice: to train it, and as the reference."""
        import torch

        first, again = self._logits(self.loaded()), self._logits(self._load())
        assert torch.equal(first, again), (
            f"{self.subject} must load the same weights each time, got logits that differ by "
            f"{(first - again).abs().max():.3g}."
        )

    def test_saves_and_loads_to_equal_logits(self) -> None:
        """As `model/` is written at the end of a run and read by the next one."""
        import torch

        from lightning_rlhf.models import load_base, save_language_model

        loaded = self.loaded()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            try:
                save_language_model(loaded.model, loaded.tokenizer, path, None)
                again = load_base(str(path))
            except Exception as error:
                raise AssertionError(f"{self.subject} must be saved and loaded, got {described(error)}.") from error
            before, after = self._ids(loaded.tokenizer), self._ids(again.tokenizer)
            assert before.tolist() == after.tolist(), (
                f"the tokenizer of {self.subject} must give the same ids after saving, got {after.tolist()} instead "
                f"of {before.tolist()}."
            )
            first, second = self._logits(loaded), self._logits(again)
        assert torch.equal(first, second), (
            f"{self.subject} must have equal logits after saving, got logits that differ by "
            f"{(first - second).abs().max():.3g}."
        )

    def test_works_offline_if_it_says_so(self) -> None:
        """With `offline = True` it loads where no other machine can be reached."""
        if self.make().offline:
            with without_network() as asked:
                try:
                    self._load()
                except AssertionError as error:
                    hosts = f" It asked for {', '.join(dict.fromkeys(asked))}." if asked else ""
                    raise AssertionError(f"{error} It says that it works offline.{hosts}") from error

    def loaded(self) -> "LoadedModel":
        """The model and its tokenizer, loaded once for all tests of a class."""
        contract = type(self)
        loaded = vars(contract).get("_loaded")  # of this class, not of one that it derives from
        if loaded is None:
            loaded = contract._loaded = self._load()
        return loaded

    def _load(self) -> "LoadedModel":
        from lightning_rlhf.models import load_base

        source = self.make()
        try:
            return load_base(source)
        except Exception as error:
            raise AssertionError(f"{self.subject} must load, got {described(error)}.") from error

    def _stop_ids(self) -> tuple[int, ...]:
        from lightning_rlhf.builtins.templates import PlainTemplate
        from lightning_rlhf.data.tokenization import PromptFormatter
        from lightning_rlhf.errors import TemplateError

        loaded = self.loaded()
        try:
            stop_ids = PromptFormatter(PlainTemplate(), loaded.tokenizer).stop_ids
        except TemplateError as error:
            raise AssertionError(f"{self.subject} must have a stop token, got {described(error)}.") from error
        size = _num_embeddings(loaded.model)
        assert max(stop_ids) < size, (
            f"the stop token of {self.subject} must be one of the {size} that the model knows, got {max(stop_ids)}."
        )
        return stop_ids

    def _ids(self, tokenizer: "PreTrainedTokenizerBase") -> "Tensor":
        import torch

        return torch.tensor([tokenizer(self.text)["input_ids"]])

    def _logits(self, loaded: "LoadedModel") -> "Tensor":
        import torch

        with torch.no_grad():
            logits: Tensor = loaded.model(input_ids=self._ids(loaded.tokenizer)).logits
        return logits


def _num_embeddings(model: "PreTrainedModel") -> int:
    return int(cast("Tensor", model.get_input_embeddings().weight).shape[0])
