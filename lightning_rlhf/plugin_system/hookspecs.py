"""The five hooks of a plug-in.

A plug-in is an installed distribution with entry points in the group `lightning_rlhf`, each naming a module whose
functions are marked with `hookimpl`. Every hook takes no argument, is called once, and returns an iterable of
`Component`. A hook only supplies names: it changes no number of any run, imports no torch, prints and reads nothing.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pluggy

from lightning_rlhf.plugin_system.component import Component
from lightning_rlhf.plugin_system.interfaces import (
    DataSource,
    ModelSource,
    PromptTemplate,
    RankingConverter,
    RewardFunction,
)

__all__ = ["BASES", "GROUP", "HOOKS", "HookSpecs", "hookimpl", "hookspec"]

GROUP = "lightning_rlhf"
"""The entry-point group, and the name under which pluggy knows the project."""

HOOKS: Mapping[str, str] = {
    "rlhf_datasets": "dataset",
    "rlhf_prompt_templates": "prompt_template",
    "rlhf_reward_functions": "reward_function",
    "rlhf_ranking_converters": "ranking_converter",
    "rlhf_models": "model",
}
"""The kind of component that each hook offers."""

BASES: Mapping[str, type[Any]] = {
    "dataset": DataSource,
    "prompt_template": PromptTemplate,
    "reward_function": RewardFunction,
    "ranking_converter": RankingConverter,
    "model": ModelSource,
}
"""The class that a component of each kind derives from."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class HookSpecs:
    """The hooks; the example of each is a complete plug-in.

    Its `pyproject.toml` needs one entry besides the usual ones:

        [project.entry-points.lightning_rlhf]
        my_plugin = "my_plugin"
    """

    @hookspec
    def rlhf_datasets(self) -> Iterable[Component]:  # type: ignore[empty-body]
        """Dataset components, subclasses of `DataSource`.

        Example:
            >>> from lightning_rlhf import Component, DataSource, Demonstration, Message, hookimpl
            >>> class Greetings(DataSource):
            ...     def load(self, split):
            ...         if split == "train":
            ...             yield Demonstration([Message("user", "Hello"), Message("assistant", "Hi!")])
            >>> @hookimpl
            ... def rlhf_datasets():
            ...     return [Component("greetings", Greetings, "one greeting")]
        """

    @hookspec
    def rlhf_prompt_templates(self) -> Iterable[Component]:  # type: ignore[empty-body]
        r"""Prompt templates, subclasses of `PromptTemplate`.

        Example:
            >>> from lightning_rlhf import Component, PromptTemplate, Segment, hookimpl
            >>> class Chat(PromptTemplate):
            ...     def render(self, messages):
            ...         return [Segment(message.content + "\n", message.role == "assistant") for message in messages]
            >>> @hookimpl
            ... def rlhf_prompt_templates():
            ...     return [Component("chat", Chat, "one line per turn")]
        """

    @hookspec
    def rlhf_reward_functions(self) -> Iterable[Component]:  # type: ignore[empty-body]
        """Reward functions, subclasses of `RewardFunction`.

        Example:
            >>> from lightning_rlhf import Component, RewardFunction, hookimpl
            >>> class Shout(RewardFunction):
            ...     def __call__(self, prompts, responses, **columns):
            ...         return [float(response.isupper()) for response in responses]
            >>> @hookimpl
            ... def rlhf_reward_functions():
            ...     return [Component("shout", Shout, "1 for a response in capitals")]
        """

    @hookspec
    def rlhf_ranking_converters(self) -> Iterable[Component]:  # type: ignore[empty-body]
        """Ranking converters, subclasses of `RankingConverter`.

        Example:
            >>> from lightning_rlhf import Component, RankingConverter, hookimpl
            >>> class MeanRank(RankingConverter):
            ...     def __call__(self, ranks):
            ...         return -ranks.mean(axis=0)
            >>> @hookimpl
            ... def rlhf_ranking_converters():
            ...     return [Component("mean_rank", MeanRank, "minus the mean place")]
        """

    @hookspec
    def rlhf_models(self) -> Iterable[Component]:  # type: ignore[empty-body]
        """Models, subclasses of `ModelSource`.

        Example:
            >>> from lightning_rlhf import Component, ModelSource, hookimpl
            >>> class Local(ModelSource):
            ...     def load(self):
            ...         from transformers import AutoModelForCausalLM, AutoTokenizer
            ...         return AutoModelForCausalLM.from_pretrained("local"), AutoTokenizer.from_pretrained("local")
            >>> @hookimpl
            ... def rlhf_models():
            ...     return [Component("local", Local, "the model in ./local")]
        """
