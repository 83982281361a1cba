"""The parser behind the trainer commands."""

import re
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace, set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser

from lightning_rlhf.cli.config_text import check_yaml
from lightning_rlhf.cli.help_text import HelpFormatter
from lightning_rlhf.errors import ConfigError, shown
from lightning_rlhf.parsing import NamesOnly
from lightning_rlhf.plugin_system.discovery import BUILTIN
from lightning_rlhf.plugin_system.manager import plugin_manager
from lightning_rlhf.version import __version__

__all__ = ["Parser", "ReportedError", "header", "reads_local_configs"]


_REMOTE = re.compile(r"(?!file://)[A-Za-z][\w+.-]*(://|::)")
"""`s3://bucket/file`, `zip::http://host/file`: what is fetched or unpacked to be read."""
_LARGEST = 16 * 2**20
"""Bytes of a config: a model or a data file that stands after `--config` is not read to the end to say so."""


def _written(dumper: yaml.SafeDumper, value: Enum) -> yaml.Node:
    """A member of an enumeration in a saved config, as it is given: some classes have one as a default."""
    return dumper.represent_data(value.value if isinstance(value, str) else value.name)


yaml.SafeDumper.add_multi_representer(Enum, _written)


class ReportedError(ConfigError):
    """What the parser found wrong, as it says it."""


class Parser(NamesOnly, LightningArgumentParser):
    """Raises what it finds wrong, where the base class prints pages of usage and exits; reads `--config` alone.

    Args:
        **kwargs: as for the base class.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", HelpFormatter)  # here: parsers for the help of a class take no arguments
        super().__init__(**kwargs)
        self._reads = False

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Namespace:
        """Read a config.

        Raises:
            ConfigError: another config names it.
        """
        if self._reads:
            raise ConfigError(f"a config must not name another one, got {shown(str(path))}. Give --config for each.")
        self._reads = True
        try:
            parsed: Namespace = super().parse_path(path, *args, **kwargs)
            return parsed
        finally:
            self._reads = False

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message.

        Raises:
            ReportedError: always, but for a parser inside of another one.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        raise ReportedError(message) from ex


def reads_local_configs(parser: LightningArgumentParser) -> LightningArgumentParser:
    """The parser, with a `--config` that takes files of this machine alone."""
    # Lightning switches other file systems on when it is imported
    set_parsing_settings(config_read_mode_urls_enabled=False, config_read_mode_fsspec_enabled=False)
    for action in parser._actions:
        if action.dest == "config":
            action.type = _config
    return parser


def _config(value: Any) -> Any:
    """What stands after `--config`: a file, or the config itself. What was read already is a list of files."""
    if not isinstance(value, str):
        return value
    if _REMOTE.match(value):
        raise ConfigError(
            f"--config must be a file on this machine, got {shown(value)}. Download it and read it first: a config "
            "decides which code runs."
        )
    with suppress(OSError, ValueError):  # no path, but the config itself
        if (size := Path(value).stat().st_size) > _LARGEST:
            raise ConfigError(f"--config must be a file of YAML text, got {shown(value)} of {size / 1e6:,.0f} MB.")
        check_yaml(Path(value).read_text(encoding="utf-8"), value)
    return value


def header(plugins: Mapping[str, str] | None = None) -> list[str]:
    """The first lines of a config: what it was made with.

    Args:
        plugins: versions of the plug-ins that took part; None: all that are active.
    """
    versions = plugin_manager().versions() if plugins is None else plugins
    packages = [f"{name}=={version(name)}" for name in ("lightning", "torch", "transformers", "jsonargparse")]
    lines = [f"plug-in {name}=={number}" for name, number in versions.items() if name != BUILTIN]
    return [f"{BUILTIN}=={__version__}", *packages, *lines]
