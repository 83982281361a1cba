"""Pieces of text to ids and back, without what a tokenizer does to a whole text."""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.errors import TemplateError

__all__ = ["PieceEncoder"]

_ANCHORS = ("a", "\n", ".")
_KEPT_MARKERS = 1024
_UNSPACED = "\u2e80-\u312f\u3190-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff"
"""Characters of scripts without spaces: Chinese and Japanese, their punctuation and full-width forms."""
_STRAY_SPACE = re.compile(f"(?<=[{_UNSPACED}]) | (?=[{_UNSPACED}])")


class PieceEncoder:
    """Encodes the pieces of one text, each by itself, so that the ids of the pieces decode to the joined text.

    Special tokens are recognised in control pieces only. SentencePiece-like tokenizers put a stray space (a dummy
    prefix) before whatever they encode; it stays at the first piece, where decoding removes it again, and is left out
    of the others.

    Args:
        tokenizer: the model's tokenizer; it is copied and never changed.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._first: Tokenizer | None = None
        self._inner: Tokenizer | None = None
        self._kept_markers: dict[tuple[str, bool], list[int]] = {}
        self._joins_words = False
        """Whether the tokenizer forgets the spaces of a text, as WordPiece does, and guesses them when it decodes."""
        if tokenizer.is_fast:
            state = json.loads(tokenizer.backend_tokenizer.to_str())
            self._joins_words = (state["decoder"] or {}).get("type") == "WordPiece"
            state["truncation"] = state["padding"] = None
            bare = _without_dummy_prefix(state)
            self._first = Tokenizer.from_str(json.dumps(state))
            self._inner = self._first if bare == state else Tokenizer.from_str(json.dumps(bare))
        self._protected: dict[str, int] = {
            str(token): index for index, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        self._protected |= dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        self._anchor = self.encode(_ANCHORS[0], control=False, first=True)
        self._anchor_text = self._decode(self._anchor)

    @property
    def prefix_ids(self) -> list[int]:
        """What this tokenizer puts before every text by itself: BOS, several tokens (`[gMASK]<sop>`), or nothing."""
        for anchor in _ANCHORS:
            plain = list(self.tokenizer(anchor, add_special_tokens=False)["input_ids"])
            ids = list(self.tokenizer(anchor)["input_ids"])
            starts = range(len(ids) - len(plain) + 1) if plain else ()
            for start in starts:
                if ids[start : start + len(plain)] == plain:
                    return ids[:start]
        return []

    def protect(self, text: str, index: int) -> None:
        """From now on `text` in a piece that is not control does not become the token `index`."""
        self._protected[text] = index

    def protect_markers(self, text: str) -> None:
        """The same for every added token in a control piece: some tokenizers' turn markers are not special tokens."""
        added = self.tokenizer.added_tokens_decoder
        for index in self.encode(text, control=True, first=False):
            if index in added:
                self.protect(str(added[index]), index)

    def encode(self, text: str, *, control: bool, first: bool) -> list[int]:
        """The ids of one piece.

        Args:
            text: the piece.
            control: special tokens in it are recognised.
            first: it is the first piece of its text.
        """
        if not text:
            return []
        if control:
            return list(self._marker_ids(text, first))
        ids = self._raw(text, control=False, first=first)
        if set(self._protected.values()).isdisjoint(ids):
            return ids
        # a marker that the tokenizer knows as an ordinary piece: cut through it, so that it cannot be matched whole
        cuts = [match.start() + 1 for match in re.finditer(self._markers(), text)]
        if not cuts:
            return ids
        bounds = [0, *cuts, len(text)]
        parts = [text[start:end] for start, end in pairwise(bounds)]
        return [index for place, part in enumerate(parts) for index in self._raw(part, False, first and place == 0)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids from the middle of a text: no leading space is lost, nothing is cleaned up.

        Of a tokenizer that forgets spaces none leads, and none stands beside a Chinese or Japanese character.
        """
        text = self._decode([*self._anchor, *ids])[len(self._anchor_text) :]
        return text.removeprefix(" ") if self._joins_words else text

    def decode_next(self, previous: int | None, index: int, *, alone: str) -> str:
        """The text that a token adds after another one.

        Args:
            previous: the token before it, if there is one.
            index: the token.
            alone: its text by itself, which differs where a tokenizer that forgets spaces writes one between the two.
        """
        if not self._joins_words or previous is None:
            return alone
        return self._decode([previous, index])[len(self._decode([previous])) :]

    def decode_whole(self, ids: Sequence[int]) -> str:
        """The text of ids that begin a text."""
        return self._decode(ids)

    def _marker_ids(self, text: str, first: bool) -> list[int]:
        """The ids of a control piece: a template writes the same few into every dialogue, which are encoded once."""
        if (text, first) not in self._kept_markers:
            if len(self._kept_markers) == _KEPT_MARKERS:
                self._kept_markers.clear()
            self._kept_markers[text, first] = self._raw(text, control=True, first=first)
        return self._kept_markers[text, first]

    def _markers(self) -> str:
        longest_first = sorted((text for text in self._protected if len(text) > 1), key=len, reverse=True)
        return f"(?=(?:{'|'.join(map(re.escape, longest_first))}))" if longest_first else r"(?!)"

    def _raw(self, text: str, control: bool, first: bool) -> list[int]:
        backend = self._first if first else self._inner
        if backend is None:
            return self._slow(text, control, first)
        backend.encode_special_tokens = not control
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return ids

    def _slow(self, text: str, control: bool, first: bool) -> list[int]:
        """For tokenizers written in Python: the dummy prefix goes with an anchor that is encoded in front and cut."""
        ids = self._slow_ids(text, control)
        if first or not str(self.tokenizer.tokenize(_ANCHORS[0])[0]).startswith("▁"):
            return ids
        for anchor in _ANCHORS:
            head, whole = self._slow_ids(anchor, False), self._slow_ids(anchor + text, control)
            if whole[: len(head)] == head:
                return whole[len(head) :]
        raise TemplateError(
            f"the tokenizer {type(self.tokenizer).__name__} must encode a piece of text apart from its neighbours, got "
            f"ids that depend on them for {text!r}. Use the tokenizer's fast version."
        )

    def _slow_ids(self, text: str, control: bool) -> list[int]:
        tokens = self.tokenizer.tokenize(text, split_special_tokens=not control)
        return [int(self.tokenizer.convert_tokens_to_ids(token)) for token in tokens]  # type: ignore[arg-type]

    def _decode(self, ids: Sequence[int]) -> str:
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
        return _STRAY_SPACE.sub("", text) if self._joins_words else text


def _without_dummy_prefix(state: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer's description less what puts a space before a text."""
    return {
        **state,
        "normalizer": _without_prepend(state["normalizer"]),
        "pre_tokenizer": _without_prefix_space(state["pre_tokenizer"]),
    }


def _without_prepend(normalizer: dict[str, Any] | None) -> dict[str, Any] | None:
    if normalizer is None or normalizer["type"] == "Prepend":
        return None
    if normalizer["type"] != "Sequence":
        return normalizer
    members = [kept for member in normalizer["normalizers"] if (kept := _without_prepend(member)) is not None]
    return {**normalizer, "normalizers": members}


def _without_prefix_space(pre_tokenizer: dict[str, Any] | None) -> dict[str, Any] | None:
    if pre_tokenizer is None:
        return None
    match pre_tokenizer["type"]:
        case "Sequence":
            members = [_without_prefix_space(member) for member in pre_tokenizer["pretokenizers"]]
            return {**pre_tokenizer, "pretokenizers": members}
        case "Metaspace":
            return {**pre_tokenizer, "prepend_scheme": "never"}
        case "ByteLevel":
            return {**pre_tokenizer, "add_prefix_space": False}
    return pre_tokenizer
