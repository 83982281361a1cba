"""Reading a verdict: one line, the judge's own, which what it judges cannot imitate."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

__all__ = ["FoundVerdict", "VerdictForm"]

_MARKS = r"[\s*_`\"'(\[{]*"
_LEAD = r"\W*(?:[^\W\d_]+\s+){0,3}"
"""`**Final score:**`, `The score is`: what may stand before the word."""
_THOUGHTS = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
"""Of a judge that thinks aloud: no part of its verdict."""
_CODE_BLOCK = re.compile(r"\s*```\w*\n(.*)\n\s*```\s*", re.DOTALL)


class FoundVerdict(NamedTuple):
    """The verdict of a reply."""

    value: re.Match[str]
    """Of the form's own pattern."""
    is_coded: bool
    """The code of the question stands in it, which nobody but the judge was told."""


class VerdictForm:
    """`Score: <number>`, `Verdict: <A, B or tie>`: a word and what may follow it.

    Args:
        word: in lower case.
        value: pattern of what follows.
    """

    def __init__(self, word: str, value: str) -> None:
        self.word = word
        self._value = re.compile(value, re.IGNORECASE)
        said = rf"\b{word}\b{_MARKS}(?P<code>[0-9a-f]{{12}}\b{_MARKS})?(?:[:=：]|is\b){_MARKS}(?P<value>{value})"
        self._line = re.compile(rf"{_LEAD}{said}[^\w]*", re.IGNORECASE)
        self._anywhere = re.compile(rf"\b{word}\W+(?:is\W+)?(?:[0-9a-f]{{12}}\W+)?(?={value})", re.IGNORECASE)

    def find(self, reply: str, code: str | None = None) -> FoundVerdict | None:
        """The verdict, if there is one, and only one, and nothing is said after it.

        Args:
            reply: all that the judge said.
            code: what tells its verdict from others; one with another code is none.
        """
        lines = [line for line in self._own_words(reply).splitlines() if re.search(r"\w", line)]
        verdicts = [match for line in lines if (match := self._line.fullmatch(line))]
        if len(verdicts) != 1 or not self._line.fullmatch(lines[-1]):
            return None
        given = re.sub(r"\W", "", verdicts[0]["code"] or "").lower()
        value = self._value.match(verdicts[0]["value"])
        if value is None or (given and given != code):
            return None
        return FoundVerdict(value, bool(given))

    def imitations(self, text: str) -> Iterator[re.Match[str]]:
        """What in a text could be taken for a verdict if the judge quoted it."""
        for start in self._anywhere.finditer(text):
            if match := self._value.match(text, start.end()):
                yield match

    def _own_words(self, reply: str) -> str:
        """The reply without thoughts; of JSON, the line that it stands for."""
        text = _THOUGHTS.sub("", reply, count=1) if reply.lstrip().startswith("<think>") else reply
        whole = match[1] if (match := _CODE_BLOCK.fullmatch(text)) else text
        before, _, last = whole.rstrip().rpartition("\n")
        for kept, candidate in (("", whole), (before, last)):
            if (line := self._of_json(candidate)) is not None:
                return f"{kept}\n{line}"
        return text

    def _of_json(self, text: str) -> str | None:
        if not text.strip().startswith("{"):
            return None
        try:
            fields = json.loads(text, object_pairs_hook=list)
        except (ValueError, RecursionError):
            return None
        found = [f"{self.word}: {value}" for name, value in fields if _is(name, self.word) and _is_plain(value)]
        return "\n".join(found) or None


def _is(name: str, word: str) -> bool:
    return name.strip().lower() == word


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)
