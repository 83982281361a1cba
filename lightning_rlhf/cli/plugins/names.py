"""What a name on the command line must be, and which one was perhaps meant."""

import difflib
from collections.abc import Iterable

from lightning_rlhf.errors import ConfigError
from lightning_rlhf.plugin_system.component import KINDS

__all__ = ["check_kind", "meant"]


def check_kind(kind: str) -> None:
    """Check the name of a kind.

    Raises:
        ConfigError: there is no such kind; the message holds near ones.
    """
    if kind not in KINDS:
        raise ConfigError(f"the kind must be one of {', '.join(KINDS)}, got {kind!r}.{meant(kind, KINDS)}")


def meant(name: str, offered: Iterable[str]) -> str:
    """A sentence with the offered names that were perhaps meant, else nothing."""
    plain = {offer.lower().replace("-", "_"): offer for offer in offered}
    near = difflib.get_close_matches(name.lower().replace("-", "_"), plain, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(plain[match] for match in near)}?" if near else ""
