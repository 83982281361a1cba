"""The chatterbot corpus: small talk in many languages, in an installed package."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml

from lightning_rlhf.builtins.files import NumberedRow
from lightning_rlhf.errors import ConfigError, DataError, RecordError
from lightning_rlhf.records import Demonstration, Message, Record
from lightning_rlhf_dialogues.fields import shown
from lightning_rlhf_dialogues.reading import LayoutSource, opened

__all__ = ["Chatterbot"]

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C, where PyYAML was built with it


class Chatterbot(LayoutSource):
    """The chatterbot corpus: YAML files of `conversations`, each a list of what two speakers say in turn.

    Where the lines of a conversation are other answers to its first one (see `alternatives`), each is a dialogue of two
    turns. A conversation that is no list, or a single line, is a bad row; the corpus has a few, one of them in English
    (trivia).

    Args:
        path: a file of your own in the layout (.yml or .yaml), a folder of files, a list of these, or files per split;
            null reads the installed package.
        language: a folder of the installed package, such as english, chinese or german.
        categories: files of that folder to read, such as [ai, humor]; null reads all.
        val_fraction: share of the dialogues to hold out for validation, chosen by a hash of their first turn.
        test_fraction: share of the dialogues to hold out for testing.
        alternatives: files whose later lines are other answers to the first.
    """

    example: ClassVar[Mapping[str, Any]] = {"categories": ["ai", "greetings"]}
    suffixes: ClassVar[tuple[str, ...]] = (".yml", ".yaml")

    def __init__(
        self,
        path: str | list[str] | dict[str, str | list[str]] | None = None,
        language: str = "english",
        categories: list[str] | None = None,
        val_fraction: float = 0.0,
        test_fraction: float = 0.0,
        alternatives: Sequence[str] = ("computers", "emotion"),
    ) -> None:
        self.language = language
        self.categories = categories
        self.alternatives = tuple(alternatives)
        if path is not None and categories is not None:
            raise ConfigError("categories must be null when `path` names the files, got both.")
        super().__init__(_installed(language, categories) if path is None else path, val_fraction, test_fraction)

    def rows(self, file: Path) -> Iterator[NumberedRow]:
        """The conversations of a file, each with its line."""
        root = _parsed(file)
        entries = {key.value: value for key, value in root.value} if isinstance(root, yaml.MappingNode) else {}
        conversations = entries.get("conversations")
        if not isinstance(conversations, yaml.SequenceNode):
            raise DataError(f"{file} must hold a list of conversations, got none.")
        alternatives = file.stem in self.alternatives
        for conversation in conversations.value:
            try:
                lines = _lines(conversation)
            except RecordError as error:
                yield conversation.start_mark.line + 1, error
                continue
            dialogues = [[lines[0], answer] for answer in lines[1:]] if alternatives else [lines]
            yield conversation.start_mark.line + 1, dialogues

    def records(self, row: Any) -> Iterator[Record]:
        """The dialogues of a conversation."""
        for lines in row:
            roles = (("user", "assistant")[place % 2] for place in range(len(lines)))
            yield Demonstration(tuple(Message(role, line) for role, line in zip(roles, lines, strict=True)))


def _parsed(file: Path) -> Any:
    try:
        with opened(file) as stream:
            # nodes, not values: they know their lines, and a number stays the text that it was
            return yaml.compose(stream.read().decode("utf-8"), Loader=_LOADER)
    except UnicodeDecodeError as error:
        raise DataError(f"{file} must be UTF-8, got the byte 0x{error.object[error.start]:02x}.") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DataError(f"{file}:{line}: the file must be YAML, got {error.problem}.") from None
    except yaml.YAMLError as error:
        raise DataError(f"{file} must be YAML, got {error}.") from None


def _lines(conversation: Any) -> list[str]:
    if not isinstance(conversation, yaml.SequenceNode):
        raise RecordError(f"a conversation must be a list of lines, got {shown(conversation.value)}.")
    if not all(isinstance(line, yaml.ScalarNode) for line in conversation.value):
        raise RecordError("a line of a conversation must be text, got a list or mapping.")
    lines = [line.value.strip() for line in conversation.value]
    lines = [line for line in lines if line]
    if len(lines) < 2:
        raise RecordError(f"a conversation must have at least two lines, got {len(lines)}.")
    return lines


def _installed(language: str, categories: Sequence[str] | None) -> list[str]:
    """The files of the installed package."""
    from chatterbot_corpus.corpus import DATA_DIRECTORY

    languages = sorted(folder.name for folder in Path(DATA_DIRECTORY).iterdir() if folder.is_dir())
    if language not in languages:
        raise ConfigError(f"language must be one of {', '.join(languages)}, got {language!r}.")
    files = {file.stem: str(file) for file in sorted(Path(DATA_DIRECTORY, language).glob("*.y*ml"))}
    unknown = [name for name in categories or () if name not in files]
    if unknown:
        raise ConfigError(f"the categories of {language} must be among {', '.join(files)}, got {unknown[0]!r}.")
    return [file for name, file in files.items() if categories is None or name in categories]
