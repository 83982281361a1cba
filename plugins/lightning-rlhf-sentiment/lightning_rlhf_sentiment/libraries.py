"""Imports the sentiment libraries, each only when a component needs it."""

import importlib
import warnings
from typing import Any

from lightning_rlhf.errors import ConfigError

__all__ = ["library"]


def library(module: str, distribution: str, component: str) -> Any:
    """A module of a library.

    Args:
        module: its dotted name.
        distribution: what pip knows the library as.
        component: whose need it is, named in the error.

    Raises:
        ConfigError: it cannot be imported; the message says what to install.
    """
    try:
        with warnings.catch_warnings():
            # what an old library does while it is imported cannot be mended here: unclosed files, deprecated calls
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except Exception as error:  # not installed, or too old for this Python in whichever way
        raise ConfigError(
            f"reward function {component!r} must be able to import {distribution}, got {type(error).__name__}: "
            f"{error}. Install it: pip install {distribution}"
        ) from error
