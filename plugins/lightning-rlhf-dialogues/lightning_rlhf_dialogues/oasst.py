"""OpenAssistant's conversations, as trees and as flat lists of messages."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from lightning_rlhf.builtins.files import NumberedRow
from lightning_rlhf.errors import RecordError
from lightning_rlhf.records import Demonstration, Message, Ranking, Record
from lightning_rlhf_dialogues.fields import is_there, list_of, mapping_of, shown, text_of
from lightning_rlhf_dialogues.reading import LayoutSource, sample

__all__ = ["OasstRankings", "OasstThreads"]

_ROLES = {"prompter": "user", "assistant": "assistant"}
_ID = ("message_id", "user_message_id")


class _OasstSource(LayoutSource):
    """What both have in common: rows become trees.

    Args:
        path: as for the components.
        val_fraction: as for the components.
        test_fraction: as for the components.
        lang: as for the components.
    """

    example: ClassVar[Mapping[str, Any]] = {"path": sample("oasst.jsonl")}

    def __init__(
        self,
        path: str | list[str] | dict[str, str | list[str]],
        val_fraction: float = 0.0,
        test_fraction: float = 0.0,
        lang: str | None = None,
    ) -> None:
        super().__init__(path, val_fraction, test_fraction)
        self.lang = lang

    def rows(self, file: Path) -> Iterator[NumberedRow]:
        """Trees as they are; messages put together to the trees that they belong to."""
        tree: list[NumberedRow] = []
        for number, row in super().rows(file):
            if not _is_message(row):
                yield number, row
                continue
            if tree and tree[-1][1].get("message_tree_id") != row.get("message_tree_id"):
                yield from _trees(tree)
                tree = []
            tree.append((number, row))
        yield from _trees(tree)

    def roots(self, row: Any) -> list[Mapping[str, Any]]:
        """The first messages of a row, less those in another language."""
        fields = mapping_of(row, "a row")
        if not is_there(fields, "prompt"):
            names = ", ".join(map(repr, fields))
            raise RecordError(f"a row must have a tree's 'prompt', or a message's 'text' and 'role', got {names}.")
        root = mapping_of(fields["prompt"], "the prompt of a tree")
        return [root] if self.lang is None or root.get("lang") == self.lang else []


class OasstRankings(_OasstSource):
    """Human rankings in OpenAssistant's trees, one wherever at least two answers to a message are ranked.

    The prompt is the dialogue down to that message. An answer beside them that nobody ranked stays, unranked. Messages
    that are marked as deleted are left out, with what stands below them.

    Args:
        path: a file with one tree per line, or with one message per line (.jsonl, .json or .parquet, plain or .gz), a
            folder of files, a list of these, or files per split.
        val_fraction: share of the trees to hold out for validation, chosen by a hash of their first message.
        test_fraction: share of the trees to hold out for testing.
        lang: read the trees in this language only, such as en; null reads all.
    """

    def records(self, row: Any) -> Iterator[Record]:
        """The rankings of a tree."""
        for root in self.roots(row):
            for dialogue, replies in _walk(root):
                answers = [reply for reply in replies if reply.get("role") == "assistant"]
                ranks = tuple(answer.get("rank") for answer in answers)
                if len(ranks) - ranks.count(None) >= 2:
                    yield Ranking(dialogue, tuple(text_of(answer, "text") for answer in answers), (ranks,))


class OasstThreads(_OasstSource):
    """Dialogues in OpenAssistant's trees, one for each answer that no other answer follows.

    Dialogues of a tree share their first turns. Messages that are marked as deleted are left out, with what stands
    below them, and so are messages at the end that nobody answered. Of a flat list without `message_tree_id` the whole
    file is held in memory, else one tree at a time.

    Args:
        path: a file with one tree per line, or with one message per line (.jsonl, .json or .parquet, plain or .gz), a
            folder of files, a list of these, or files per split.
        val_fraction: share of the trees to hold out for validation, chosen by a hash of their first message.
        test_fraction: share of the trees to hold out for testing.
        lang: read the trees in this language only, such as en; null reads all.
        best_only: follow the answer of the best rank only; where none is ranked, the first.
    """

    def __init__(
        self,
        path: str | list[str] | dict[str, str | list[str]],
        val_fraction: float = 0.0,
        test_fraction: float = 0.0,
        lang: str | None = None,
        best_only: bool = False,
    ) -> None:
        super().__init__(path, val_fraction, test_fraction, lang)
        self.best_only = best_only

    def records(self, row: Any) -> Iterator[Record]:
        """The dialogues of a tree."""
        for root in self.roots(row):
            dialogues = [dialogue for dialogue, _ in _walk(root, best_only=self.best_only)]
            answered = [dialogue for dialogue in dialogues if dialogue[-1].role == "assistant"]
            followed = {dialogue[:length] for dialogue in answered for length in range(1, len(dialogue))}
            yield from (Demonstration(dialogue) for dialogue in dict.fromkeys(answered) if dialogue not in followed)


def _walk(
    root: Mapping[str, Any], *, best_only: bool = False
) -> Iterator[tuple[tuple[Message, ...], Sequence[Mapping[str, Any]]]]:
    """Each message as the dialogue that it ends, with the replies to it; parents before children, in their order."""
    waiting: list[tuple[tuple[Message, ...], Mapping[str, Any]]] = [((), root)]
    while waiting:
        before, node = waiting.pop()
        if node.get("deleted"):
            continue
        dialogue = (*before, _message(node))
        replies = [
            reply
            for value in list_of(node.get("replies") or (), "the replies of a message")
            if not (reply := mapping_of(value, "a reply")).get("deleted")
        ]
        yield dialogue, replies
        kept = _without_lesser(replies) if best_only else replies
        waiting += [(dialogue, reply) for reply in reversed(kept)]


def _without_lesser(replies: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The prompter's messages, and the best of the answers."""
    answers = [reply for reply in replies if reply.get("role") == "assistant"]
    ranked = [answer for answer in answers if isinstance(answer.get("rank"), int | float)]
    best = min(ranked, key=lambda answer: float(answer["rank"])) if ranked else next(iter(answers), None)
    return [reply for reply in replies if reply.get("role") != "assistant" or reply is best]


def _message(node: Mapping[str, Any]) -> Message:
    role = text_of(node, "role")
    if role not in _ROLES:
        raise RecordError(f"the role of a message must be one of {', '.join(_ROLES)}, got {shown(role)}.")
    return Message(_ROLES[role], text_of(node, "text"))


def _is_message(row: Any) -> bool:
    return isinstance(row, Mapping) and "prompt" not in row and "text" in row and "role" in row


def _trees(rows: Iterable[NumberedRow]) -> Iterator[NumberedRow]:
    """The trees that messages make up; a tree's number is its first message's."""
    nodes: dict[str, dict[str, Any]] = {}
    roots: list[tuple[int, dict[str, Any]]] = []
    replies: list[tuple[int, Any, dict[str, Any]]] = []
    for number, row in rows:
        name = next((row[key] for key in _ID if isinstance(row.get(key), str)), None)
        if name is None or name in nodes:
            fault = "none" if name is None else f"{name!r} a second time"
            yield number, RecordError(f"a message must have an id of its own (message_id), got {fault}.")
            continue
        nodes[name] = {**row, "replies": []}
        parent = row.get("parent_id", row.get("parent_message_id"))
        if parent is None:
            roots.append((number, nodes[name]))
        else:
            replies.append((number, parent, nodes[name]))
    for number, parent, node in replies:
        if isinstance(parent, str) and parent in nodes:
            nodes[parent]["replies"].append(node)
        else:
            yield number, RecordError(f"the parent of a message must stand in its file too, got {shown(parent)}.")
    for number, node in roots:
        yield number, {"prompt": node}
