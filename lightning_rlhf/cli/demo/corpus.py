"""Real dialogues from an installed package, as the files that the demo's configs read."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from xml.etree import ElementTree

from lightning_rlhf.errors import ConfigError

__all__ = ["Corpus", "read_corpus", "write_lines"]

_FILES = {
    "alice": (
        "ai",
        "alice",
        "atomic",
        "bot",
        "client",
        "computers",
        "emotion",
        "food",
        "humor",
        "inquiry",
        "interjection",
        "literature",
        "money",
        "movies",
        "music",
        "psychology",
        "salutations",
        "science",
        "sports",
        "update1",
    ),
    "standard": ("std-atomic", "std-brain", "std-hello", "std-personality", "std-robot"),
}
"""What the A.L.I.C.E. robot says in conversation; left out are lists of facts, names and yes-or-no answers."""
_MAX_PROMPT_WORDS = 12
_ANSWER_WORDS = range(3, 17)
_MAX_PROMPTS_PER_ANSWER = 3
"""Some answers stand below dozens of questions: a model would learn to give them to all."""
_MIN_WORD_COUNT = 2
"""Pairs with a rarer word are left out: the two thousand words that remain, a model this small learns to use."""
_CAPITALS = {"AI", "AIML", "ALICE", "OK", "TV", "UFO", "USA"}
"""Other words in capitals come from where the robot would put in what it was told."""
_NOT_CONVERSATION = re.compile(r"[<>{}\[\]|_=@/\\]|:-?\)|\b(?:http|inquiry|artificial)\b", re.IGNORECASE)
"""Markup, keywords of the robot's own program, and its stock phrase, artificial intelligence, which VADER takes for
praise and TextBlob for blame: a policy finds that at once."""
_INDECENT = re.compile(
    r"\b(?:anal|ass|balls|bastard|bitch\w*|boobs|cock|condom\w*|crap|damn|dick|fuck\w*|gay|horny|kill\w*|kinky|lesbian\w*"
    r"|masturbat\w*|naked|nazi\w*|hitler|orgasm\w*|penis|piss\w*|porn\w*|rape\w*|sex\w*|shit\w*|slut|suck\w*|suicide|tits"
    r"|sodom\w*|drugs?|marijuana|lsd|cocaine|murder\w*|die|dead|death|vagina|virgin\w*|whore|god|jesus|jew\w*|muslim\w*|christian\w*)\b",
    re.IGNORECASE,
)
_YES_OR_NO = re.compile(r"^(?:yes|no)\b,? (?=\w+ \w)", re.IGNORECASE)
"""VADER takes yes for praise and no for blame, whatever follows: a policy would learn to say yes to everything."""
_QUESTION = re.compile(
    r"(?:am|are|can|could|did|do|does|had|has|have|how|is|may|might|must|shall|should|was|were|what|when|where|which|who|whose"
    r"|why|will|would)\b",
    re.IGNORECASE,
)
_TRANSPARENT = {"b", "em", "formal", "i", "sentence", "set"}
"""Tags whose text is said as it stands; `think` is not said, and any other needs the robot's memory or rules."""
_HELD_OUT_PERCENT = 5


class Corpus(NamedTuple):
    """Questions with their answers; no question stands in both."""

    train: list[tuple[str, str]]
    heldout: list[tuple[str, str]]

    @property
    def train_prompts(self) -> list[str]:
        """The training questions, each once."""
        return list(dict.fromkeys(prompt for prompt, _ in self.train))

    @property
    def heldout_prompts(self) -> list[str]:
        """The held-out questions, each once."""
        return list(dict.fromkeys(prompt for prompt, _ in self.heldout))

    @property
    def sentences(self) -> list[str]:
        """All training turns, each once."""
        return list(dict.fromkeys(turn for pair in self.train for turn in pair))

    def texts(self, num_rounds: int, seed: int) -> list[str]:
        """What the model is pretrained on: two sentences to a text, drawn anew in every round.

        The corpus is so small that a model that reads its dialogues over and over knows them by heart, and babbles
        after a question that it has not seen. From sentences in any order it learns to write; to answer is what
        supervised fine-tuning teaches.
        """
        random = Random(seed)
        texts = []
        for _ in range(num_rounds):
            firsts, seconds = (random.sample(self.sentences, len(self.sentences)) for _ in range(2))
            texts += ["\n".join(pair) for pair in zip(firsts, seconds, strict=True)]
        return texts


def read_corpus() -> Corpus:
    """What people say to the A.L.I.C.E. robot and what it answers, split by a hash of the prompt.

    The dialogues are data of the package python-aiml (GNU GPL, by the A.L.I.C.E. AI Foundation), read where it is
    installed.

    Raises:
        ConfigError: the package is not installed.
    """
    package = find_spec("aiml")
    if package is None or package.origin is None:
        raise ConfigError(
            "the demo must find the package python-aiml, got none. Install it: pip install 'lightning-rlhf[demo]'"
        )
    folder = Path(package.origin).parent / "botdata"
    paths = [folder / robot / f"{name}.aiml" for robot, names in _FILES.items() for name in names]
    pairs = _in_common_words(dict.fromkeys(pair for path in paths for pair in _pairs(path)))
    heldout = [pair for pair in pairs if _is_held_out(pair[0])]
    return Corpus([pair for pair in pairs if not _is_held_out(pair[0])], heldout)


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    """The pairs of a file that need nothing but their own words: no wildcard, no earlier turn, no other rule."""
    for category in ElementTree.fromstring(path.read_bytes()).iter("category"):
        pattern = " ".join((category.findtext("pattern") or "").split())
        template = category.find("template")
        if template is None or category.find("that") is not None or not re.fullmatch(r"[A-Z' ]+", pattern):
            continue
        prompt = _prompt(pattern)
        for said in _alternatives(template):
            answer = _answer(said)
            if answer is not None and _is_conversation(prompt, answer):
                yield prompt, answer


def _alternatives(template: ElementTree.Element) -> list[str | None]:
    """The answers that a rule chooses from; most have one."""
    children = list(template)
    around = (template.text or "") + "".join(child.tail or "" for child in children)
    if len(children) == 1 and children[0].tag == "random" and not around.strip():
        return [_spoken(item) for item in children[0]]
    return [_spoken(template)]


def _spoken(element: ElementTree.Element) -> str | None:
    """The words of an element; None where they depend on the robot's memory or on another rule."""
    words = [element.text or ""]
    for child in element:
        if child.tag in _TRANSPARENT:
            inner = _spoken(child)
            if inner is None:
                return None
            words.append(inner)
        elif child.tag == "br":
            words.append(" ")
        elif child.tag != "think":
            return None
        words.append(child.tail or "")
    return "".join(words)


def _prompt(pattern: str) -> str:
    """A pattern, which stands in capitals without punctuation, as a person would type it."""
    words = re.sub(r"\bi\b", "I", pattern.lower())
    words = re.sub(r"\balice\b", "Alice", words)
    return words[:1].upper() + words[1:] + ("?" if _QUESTION.match(words) else ".")


def _answer(spoken: str | None) -> str | None:
    text = " ".join((spoken or "").split())
    text = re.sub(r"\s+([.,!?])", r"\1", text)
    text = re.sub(r"\.\.+$", ".", text)
    text = _YES_OR_NO.sub("", text)
    if not text:
        return None
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?", '"')) else f"{text}."


def _is_conversation(prompt: str, answer: str) -> bool:
    both = f"{prompt} {answer}"
    return (
        len(answer.split()) in _ANSWER_WORDS
        and len(prompt.split()) <= _MAX_PROMPT_WORDS
        and answer.isascii()
        and not answer.startswith("What is not to like about")
        and not _NOT_CONVERSATION.search(both)
        and not _INDECENT.search(both)
        and set(re.findall(r"\b[A-Z]{2,}\b", answer)) <= _CAPITALS
    )


def _in_common_words(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs whose every word is common among the pairs that stay."""
    pairs = list(pairs)
    prompts = Counter(answer for _, answer in pairs)
    kept = [pair for pair in pairs if prompts[pair[1]] <= _MAX_PROMPTS_PER_ANSWER]
    while True:
        counts = Counter(word for pair in kept for word in _words(pair))
        common = [pair for pair in kept if all(counts[word] >= _MIN_WORD_COUNT for word in _words(pair))]
        if len(common) == len(kept):
            return common
        kept = common


def _words(pair: tuple[str, str]) -> list[str]:
    return re.findall(r"[a-z']+|\d+", " ".join(pair).lower())


def _is_held_out(prompt: str) -> bool:
    digest = hashlib.sha1(prompt.lower().encode(), usedforsecurity=False).hexdigest()
    return int(digest, 16) % 100 < _HELD_OUT_PERCENT
