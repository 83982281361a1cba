"""The text of tokens: of each by itself, and of neighbours that only make characters together."""

import codecs
import re
from collections.abc import Sequence
from typing import NamedTuple

from lightning_rlhf.data.encoding import PieceEncoder

__all__ = ["TokenText", "TokenTexts"]

_PRINTABLE_BYTES = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHER_BYTES = tuple(byte for byte in range(0x100) if byte not in _PRINTABLE_BYTES)
_BYTE_OF = {chr(byte): byte for byte in _PRINTABLE_BYTES} | {
    chr(0x100 + place): byte for place, byte in enumerate(_OTHER_BYTES)
}
"""The alphabet of byte-level tokenizers: GPT-2 writes bytes that cannot be seen as the characters from U+0100 on."""
_NAMED_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_LONE_BYTE = re.compile("[\udc80-\udcff]")


class TokenText(NamedTuple):
    """A text and how many neighbouring tokens make it."""

    text: str
    num_tokens: int


class TokenTexts:
    """The texts of one tokenizer's tokens.

    Args:
        encoder: of the tokenizer.
    """

    def __init__(self, encoder: PieceEncoder) -> None:
        self._encoder = encoder
        self._kept: dict[int, tuple[str, bytes | None]] = {}

    def of(self, index: int) -> str:
        """The text of one token, the same wherever it stands; bytes that are no character by themselves as `<0xE4>`."""
        return self._look(index)[0]

    def joined(self, ids: Sequence[int], before: int | None = None) -> list[TokenText]:
        """The text of a sequence in as many parts as it has tokens, save where several make a character.

        Args:
            ids: the tokens.
            before: the token in front of them, if there is one.
        """
        parts: list[TokenText] = []
        place = 0
        while place < len(ids):
            if self._look(ids[place])[1] is None:
                previous = ids[place - 1] if place else before
                part = TokenText(self._encoder.decode_next(previous, ids[place], alone=self.of(ids[place])), 1)
            else:
                part = self._character_at(ids, place)
            parts.append(part)
            place += part.num_tokens
        return parts

    def _character_at(self, ids: Sequence[int], start: int) -> TokenText:
        """The shortest run from `start` on whose bytes are text; the token alone where none is."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        text = ""
        for end in range(start, len(ids)):
            content = self._look(ids[end])[1]
            if content is None:
                break
            try:
                text += decoder.decode(content)
            except UnicodeDecodeError:
                break
            if not decoder.getstate()[0]:
                return TokenText(text, end + 1 - start)
        return TokenText(self.of(ids[start]), 1)

    def _look(self, index: int) -> tuple[str, bytes | None]:
        """A token's text, and its bytes where they are no text by themselves."""
        if index not in self._kept:
            self._kept[index] = self._found(index)
        return self._kept[index]

    def _found(self, index: int) -> tuple[str, bytes | None]:
        text = self._encoder.decode([index])
        if "\ufffd" not in text:
            return text, None
        piece = self._encoder.tokenizer.convert_ids_to_tokens(index)
        content = _content(piece)
        if content is None:  # a tokenizer that writes the sign for what it cannot show: its own name of the token
            return str(piece) if "\ufffd" not in str(piece) else text, None
        shown = content.decode("utf-8", "surrogateescape")
        named = _LONE_BYTE.sub(lambda found: f"<0x{ord(found[0]) - 0xDC00:02X}>", shown)
        return named, None if named == shown else content


def _content(piece: object) -> bytes | None:
    """The bytes that a token of the vocabulary stands for, if it is written in bytes."""
    if isinstance(piece, bytes):
        return piece
    name = str(piece)
    if (found := _NAMED_BYTE.fullmatch(name)) is not None:
        return bytes([int(found[1], 16)])
    if all(character in _BYTE_OF for character in name):
        return bytes(_BYTE_OF[character] for character in name)
    return None
