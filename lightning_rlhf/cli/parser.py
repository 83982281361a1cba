"""The parser behind the trainer commands."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from lightning_rlhf.cli.help_text import HelpFormatter
from lightning_rlhf.errors import ConfigError
from lightning_rlhf.plugin_system.discovery import BUILTIN
from lightning_rlhf.plugin_system.manager import plugin_manager
from lightning_rlhf.version import __version__

__all__ = ["Parser", "ReportedError", "header"]


class ReportedError(ConfigError):
    """What the parser found wrong, as it says it."""


class Parser(LightningArgumentParser):
    """Raises what it finds wrong, where the base class prints pages of usage and exits.

    Args:
        **kwargs: as for the base class.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", HelpFormatter)  # here: parsers for the help of a class take no arguments
        super().__init__(**kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message.

        Raises:
            ReportedError: always, but for a parser inside of another one.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        raise ReportedError(message) from ex


def header(plugins: Mapping[str, str] | None = None) -> list[str]:
    """The first lines of a config: what it was made with.

    Args:
        plugins: versions of the plug-ins that took part; None: all that are active.
    """
    versions = plugin_manager().versions() if plugins is None else plugins
    packages = [f"{name}=={version(name)}" for name in ("lightning", "torch", "transformers", "jsonargparse")]
    lines = [f"plug-in {name}=={number}" for name, number in versions.items() if name != BUILTIN]
    return [f"{BUILTIN}=={__version__}", *packages, *lines]
