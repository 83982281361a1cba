"""What `--help` shows: short names for classes, and words that hold for this command line."""

import re
from collections.abc import Iterable
from typing import Any

from jsonargparse import DefaultHelpFormatter
from lightning.pytorch.cli import LightningArgumentParser

from lightning_rlhf.terminal import escaped

__all__ = ["HelpFormatter", "reworded"]

_CLASSES = re.compile(r"known subclasses: (?P<paths>[\w.]+(, [\w.]+)*)")
_UNNAMED = ("lightning_rlhf.builtins.", "lightning_rlhf.cli.")
"""Offered under their short names; internal."""

_WORDS = {
    "seed_everything": "Key of every random number of the run: an int, true to take the environment's, false for none.",
    "ckpt_path": "Checkpoint to load: a file, or `last` for checkpoints/last.ckpt of trainer.default_root_dir.",
    "weights_only": "Load tensors and plain values only; false unpickles whatever the checkpoint holds.",
    "return_predictions": "Keep the predictions in memory too.",
    "trainer.default_root_dir": "Root of the run. Null: the next free runs/<stage>-<number>.",
    "trainer.logger": "Null or true: metrics.csv and TensorBoard in the root. False: none. Otherwise your own.",
    "trainer.callbacks": "More callbacks; the stage brings its own. A ModelCheckpoint replaces checkpoints/last.ckpt.",
}


class HelpFormatter(DefaultHelpFormatter):
    """Lists classes by the short names that are accepted for them, and leaves out usage that fills a page."""

    def add_usage(self, usage: str | None, actions: Iterable[Any], *args: Any, **kwargs: Any) -> None:
        """Show only usage that somebody wrote."""
        if usage is not None:
            super().add_usage(usage, actions, *args, **kwargs)

    def add_text(self, text: str | None) -> None:
        """Show a description, which may be a plug-in's."""
        super().add_text(text if text is None else escaped(text))

    def start_section(self, heading: str | None) -> None:
        """Begin a group, whose heading may be a plug-in's."""
        super().start_section(heading if heading is None else escaped(heading))

    def _expand_help(self, action: Any) -> str:
        text: str = escaped(super()._expand_help(action))
        return _CLASSES.sub(lambda match: f"classes: {_short(match['paths'])}", text)


def reworded(parser: LightningArgumentParser) -> LightningArgumentParser:
    """The parser, with this command line's words in place of Lightning's."""
    for action in parser._actions:
        action.help = _WORDS.get(action.dest, action.help)
    return parser


def _short(paths: str) -> str:
    return ", ".join(path.rpartition(".")[2] for path in paths.split(", ") if not path.startswith(_UNNAMED))
