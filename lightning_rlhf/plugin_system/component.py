"""What a hook returns: a name, a target and one line about it."""

import re
from dataclasses import dataclass
from typing import Any

from lightning_rlhf.errors import PluginError

__all__ = ["KINDS", "Component"]

KINDS = ("dataset", "prompt_template", "reward_function", "ranking_converter", "model")
"""The kinds of component, in the order in which `plugins list` shows them."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Component:
    """One named thing that a plug-in offers.

    Args:
        name: the short name for configs; letters, digits and underscores, starting with a lower-case letter.
        target: a class, a function annotated with the class it returns, or `"package.module:Name"` of either, which
            is imported only when it is used. Prefer the string: listing plug-ins then imports nothing heavy.
        summary: one line for `lightning-rlhf plugins list`.

    Raises:
        PluginError: a field breaks its rule.
    """

    name: str
    target: Any
    summary: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise PluginError(f"a component's name must match [a-z][a-z0-9_]*, got {self.name!r}.")
        if isinstance(self.target, str):
            module, colon, attribute = self.target.partition(":")
            parts = [*module.split("."), *attribute.split(".")]
            if not colon or not all(part.isidentifier() for part in parts):
                raise PluginError(
                    f"the target of component {self.name!r} must be 'package.module:Name', got {self.target!r}."
                )
        elif not callable(self.target):
            raise PluginError(
                f"the target of component {self.name!r} must be a class, a function or a string, got {self.target!r}."
            )
        if not isinstance(self.summary, str):
            raise PluginError(f"the summary of component {self.name!r} must be a string, got {self.summary!r}.")
