"""Loading of a reward model's base: a language model, which gets a new head, or a trained reward model."""

from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from lightning_rlhf.models.loading import LoadedModel, load_base, reading, resolve_base
from lightning_rlhf.models.recorded_template import RecordedTemplate
from lightning_rlhf.models.reward_files import is_reward_model
from lightning_rlhf.models.scalar_model import LoadedScalarModel, ScalarModel
from lightning_rlhf.plugin_system.interfaces import ModelSource

__all__ = ["ScoringBase", "load_scoring_base"]


class ScoringBase(NamedTuple):
    """A model with a head for scores, and what it was loaded as."""

    model: ScalarModel
    source: LoadedModel | LoadedScalarModel
    """As it was loaded; of a language model the transformer is the scoring model's own."""

    @property
    def is_trained(self) -> bool:
        """Whether its head comes from files: the model goes on being trained."""
        return isinstance(self.source, LoadedScalarModel)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's."""
        return self.source.tokenizer

    @property
    def template(self) -> RecordedTemplate | None:
        """The template that it was trained with, where its directory says so."""
        return self.source.template

    @property
    def name(self) -> str:
        """The path or hub id that loads it again, or the class name of the component."""
        return self.source.name


def load_scoring_base(base: str | ModelSource, *, seed: int = 0, trust_remote_code: bool = False) -> ScoringBase:
    """Loads what a reward model starts from.

    A reward model keeps its head and its offset, so that it scores as it did; a language model gets a new head.

    Args:
        base: a model component or its name, a directory, a .gguf file or a hub id, of either kind.
        seed: of a new head.
        trust_remote_code: run Python code that comes with the files.

    Raises:
        ModelError: the name means nothing or two things, or the files hold neither kind.
    """
    source = resolve_base(base) if isinstance(base, str) else base
    if isinstance(source, str):
        with reading(source):
            is_trained = is_reward_model(source)
        if is_trained:
            trained = ScalarModel.load(source, trust_remote_code=trust_remote_code)
            return ScoringBase(trained.model, trained)
    loaded = load_base(base, trust_remote_code=trust_remote_code)
    return ScoringBase(ScalarModel.from_language_model(loaded, seed=seed), loaded)
