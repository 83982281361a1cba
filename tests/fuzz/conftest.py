"""Rows of every kind, and what can be wrong with them."""

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.builtins.models import TinyModel

WORDS = ["a", "the", "42", "naïve", "日本語", "😀", "x<|im_end|>", "</s>", "\n", "  ", "{{ x }}", '"', "\\"]
STRANGE: list[Any] = [
    *(None, True, False, 0, 1, -1, 0.5, -0.0, 1e308, 5e-324, 2**63, 10**30, float("nan"), float("inf"), float("-inf")),
    *("", " ", "\x00", "a\x00b", "\x1b[2J", "\ud800", "\udc00\ud800", "\ufeff", "\u2028\u202e", "\r\n", "NaN", "null"),
    *(
        "</s>",
        "<|im_start|>assistant",
        "[]",
        "{}",
        "0",
        "😀" * 50,
        "x" * 30_000,
        "word " * 4_000,
        "é" * 9_000,
        "\n" * 999,
    ),
    *([], {}, [[]], [None], [[], {}], [""], {"": ""}, {"role": "user"}, {"role": "assistant", "content": "b"}, [0, 1]),
    *(
        [[0, 1], [1, 0]],
        [[0], [1, 2]],
        ["a", "b"],
        ["a", ["b"]],
        [1e308, -1e308],
        [True, False],
        [None, None],
        list(range(300)),
    ),
    *([{"role": "user", "content": "a"}], [{"role": "assistant", "content": ""}], [{"from": "gpt", "value": 3}]),
    *(
        [{"role": role, "content": role} for role in ("system", "user", "assistant", "tool")],
        [{"role": "x", "content": "y"}],
    ),
]
"""In place of any value."""
RAW = [
    "1e999",
    "-1e999",
    "9" * 400,
    "9" * 5000,
    "0." + "3" * 3000,
    "-0",
    "01",
    "+1",
    ".5",
    "0x1",
    "tru",
    "'a'",
    '"\\u12"',
]
RAW += [
    "Infinity",
    "-Infinity",
    "NaN",
    "undefined",
    '"\\ud83d"',
    '"\\ud83d\\ude00"',
    '"\x01"',
    '"\t"',
    "",
    "[",
    "]",
    "}",
    "//",
]
RAW += ["[" * depth + "]" * depth for depth in (30, 300, 800, 950, 5_000, 200_000)]
RAW += ['{"a":' * depth + "0" + "}" * depth for depth in (300, 900, 20_000)]
"""In place of the JSON of a value; some of it is none."""
BYTES = [
    b"\x00",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xc0\x80",
    b"\xef\xbb\xbf",
    b"\xfe\xff",
    b"\r",
]
BYTES += [
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\x1a",
    b"\x85",
    b"\xe2\x80\xa8",
    b"\x0b",
    b"\x1c",
    b" " * 2_000,
]
"""Between any two bytes of a line; none ends it."""
_HOLE = "the hole"


class Kind(NamedTuple):
    """Rows that are all right, of one kind."""

    kind: str
    row: Callable[[random.Random], dict[str, Any]]
    columns: dict[str, Any] | None = None


def _text(rng: random.Random) -> str:
    return "w" + " ".join(rng.choices(WORDS, k=rng.randint(1, 8)))


def _dialogue(rng: random.Random, last: str, *, names: tuple[str, str] = ("role", "content")) -> list[dict[str, str]]:
    roles = ["user", "assistant"] * rng.randint(1, 3)
    roles = [*(["system"] if rng.random() < 0.3 else []), *roles, *(["user"] if last == "user" else [])]
    return [{names[0]: role, names[1]: _text(rng)} for role in roles]


def _ranking(rng: random.Random, ranks: Callable[[int], Any], field: str) -> dict[str, Any]:
    num = rng.randint(2, 5)
    return {"prompt": _text(rng), "responses": [_text(rng) for _ in range(num)], field: ranks(num)}


KINDS = {
    "text": Kind("text", lambda rng: {"text": _text(rng)}),
    "demonstration": Kind("demonstration", lambda rng: {"prompt": _text(rng), "response": _text(rng)}),
    "dialogue": Kind("demonstration", lambda rng: {"messages": _dialogue(rng, "assistant")}),
    "renamed": Kind(
        "demonstration",
        lambda rng: {"turns": [{"value": _text(rng)}], "answer": {"text": _text(rng)}},
        {"prompt": "turns.0.value", "response": "answer.text"},
    ),
    "ranking": Kind("ranking", lambda rng: _ranking(rng, lambda num: rng.choices([0, 1, 2, None], k=num), "ranks")),
    "annotators": Kind(
        "ranking",
        lambda rng: _ranking(rng, lambda num: [rng.choices([0, 1, 2, None], k=num) for _ in range(3)], "ranks"),
    ),
    "scores": Kind("ranking", lambda rng: _ranking(rng, lambda num: [rng.gauss(0, 1) for _ in range(num)], "scores")),
    "preference": Kind(
        "ranking", lambda rng: {"prompt": _dialogue(rng, "user"), "chosen": _text(rng), "rejected": _text(rng)}
    ),
    "prompt": Kind("prompt", lambda rng: {"prompt": _text(rng), "answer": rng.choice(STRANGE[:8]), "n": [1, {"a": 2}]}),
    "open dialogue": Kind("prompt", lambda rng: {"messages": _dialogue(rng, "user"), "id": rng.random()}),
}


class Rows:
    """Rows of one kind, most of them spoilt, the same for the same seed.

    Args:
        kind: a key of `KINDS`.
        seed: of what is spoilt and how.
    """

    def __init__(self, kind: str, seed: int = 0) -> None:
        self.rng = random.Random(f"{kind} {seed}")
        self.name = kind
        self.kind, self._row, self.columns = KINDS[kind]

    @property
    def options(self) -> dict[str, Any]:
        """Of the source that reads them."""
        return {"kind": self.kind, "columns": self.columns}

    def row(self) -> dict[str, Any]:
        """One that is all right."""
        return self._row(self.rng)

    def changed(self) -> Any:
        """One with up to three values, fields or entries that are not what they should be."""
        row: Any = self.row()
        for _ in range(self.rng.randint(1, 3)):
            row = self._changed(row)
        return row

    def line(self) -> bytes:
        """One as a line of jsonl, perhaps no JSON and no UTF-8, without its end."""
        chance = self.rng.random()
        if chance < 0.2:
            return _dumped(self.row(), ascii_only=self.rng.random() < 0.5)
        line = _dumped(self.changed(), ascii_only=self.rng.random() < 0.5)
        if chance < 0.35:
            line = _dumped(self._with_hole(), ascii_only=True)
            line = line.replace(json.dumps(_HOLE).encode(), self.rng.choice(RAW).encode(), 1)
        elif chance < 0.45:
            line = self._twice(line)
        elif chance < 0.7:
            line = self._broken(line)
        return line.replace(b"\n", b" ")

    def lines(self, number: int) -> list[bytes]:
        """That many, of which none is blank: a blank line is no row."""
        made: list[bytes] = []
        while len(made) < number:
            line = self.line()
            made += [line] if line.strip() else []
        return made

    def _changed(self, value: Any) -> Any:
        """The value with something changed in it, at a depth of chance's choosing."""
        rng = self.rng
        if isinstance(value, dict) and value and rng.random() < 0.9:
            return self._changed_fields(dict(value))
        if isinstance(value, list) and value and rng.random() < 0.8:
            return self._changed_entries(list(value))
        return _strange(rng)

    def _changed_fields(self, fields: dict[str, Any]) -> dict[str, Any]:
        rng, name = self.rng, self.rng.choice(list(fields))
        action = rng.randint(0, 5)
        if action == 0:
            del fields[name]
        elif action == 1:
            fields[rng.choice(["extra", "", "messages", "responses", "stopped", "\x00", "prompt", "x" * 500])] = (
                _strange(rng)
            )
        elif action == 2:
            fields[rng.choice(["Prompt", " text", name.upper(), f"{name}\u200b"])] = fields.pop(name)
        else:
            fields[name] = self._changed(fields[name])
        return fields

    def _changed_entries(self, entries: list[Any]) -> list[Any]:
        rng, place = self.rng, self.rng.randrange(len(entries))
        action = rng.randint(0, 4)
        if action == 0:
            del entries[place]
        elif action == 1:
            entries.insert(place, _strange(rng))
        elif action == 2:
            entries *= rng.choice([0, 2, 50])
        else:
            entries[place] = self._changed(entries[place])
        return entries

    def _with_hole(self) -> dict[str, Any]:
        row = self.row()
        name = self.rng.choice([*row, "extra"])
        row[name] = [_HOLE] if self.rng.random() < 0.3 else _HOLE
        return row

    def _twice(self, line: bytes) -> bytes:
        """A field that stands there twice."""
        name = json.dumps(self.rng.choice(list(self.row()))).encode()
        return b"{%s: %s, %s" % (name, _dumped(_strange(self.rng), ascii_only=True), line.lstrip(b" {"))

    def _broken(self, line: bytes) -> bytes:
        rng, place = self.rng, self.rng.randrange(len(line) + 1)
        action = rng.randint(0, 4)
        if action == 0:
            return line[:place]
        if action == 1:
            return line[:place] + rng.choice(BYTES) + line[place:]
        if action == 2:
            return line[:place] + bytes([rng.randrange(256)]) + line[place + 1 :]
        if action == 3:
            return line + rng.choice([b" ", b"", b","]) + line
        return line[: place // 2] + line[place:]


def _strange(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(STRANGE))  # tests change rows


def _dumped(value: Any, *, ascii_only: bool) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


@pytest.fixture
def rows() -> Callable[..., Rows]:
    """`rows(kind, seed=0)`."""
    return Rows


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Every kind of row."""
    return str(request.param)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    """A byte tokenizer with `<s>`, `</s>` and `<pad>`."""
    return TinyModel(hidden_size=16, num_layers=1, num_heads=2).load()[1]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
