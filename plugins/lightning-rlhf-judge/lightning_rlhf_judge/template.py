"""How a response becomes a question."""

import string
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lightning_rlhf import Message
from lightning_rlhf.errors import ConfigError

__all__ = ["QuestionTemplate", "shortened", "spoken"]


class QuestionTemplate:
    """Text with names in braces; braces that are meant are doubled.

    Args:
        text: the template.
        required: names that it must hold.

    Raises:
        ConfigError: a brace is left open, something else than a name stands in braces, or a required name is missing.
    """

    def __init__(self, text: str, required: Collection[str]) -> None:
        self.text = text
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            raise ConfigError(
                f"template must have closed braces, got {error}. Double the braces that are meant: {{{{ and }}}}."
            ) from None
        fields = [(name, spec, conversion) for _, name, spec, conversion in parsed if name is not None]
        for name, spec, conversion in fields:
            if not name.isidentifier() or spec or conversion:
                raise ConfigError(
                    f"template must hold plain names in braces, got {{{name}}}. Double the braces that are meant."
                )
        self.names = frozenset(name for name, _, _ in fields)
        """The names in braces."""
        missing = sorted(set(required) - self.names)
        if missing:
            raise ConfigError(f"template must hold {', '.join(f'{{{name}}}' for name in missing)}, got {text!r}.")

    def fill(self, values: Mapping[str, object]) -> str:
        """The text with a value for each name; values are not looked at for braces."""
        return self.text.format_map(values)


def spoken(messages: Sequence[Message]) -> str:
    """A dialogue as a person would write it down."""
    return "\n".join(f"{message.role.capitalize()}: {message.content}" for message in messages)


def shortened(text: Any, length: int = 200) -> str:
    """A text for an error message."""
    text = str(text)
    return repr(text if len(text) <= length else f"{text[: length // 2]} … {text[-length // 2 :]}")
