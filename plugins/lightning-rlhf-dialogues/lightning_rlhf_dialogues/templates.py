"""Prompt templates of layouts that models were trained on.

Markers are control segments, what a message says never is: an `<eom>` in a user's text stays text. Each has the Jinja
form that renders the same, which goes into a saved model's tokenizer.
"""

import json
from collections.abc import Mapping, Sequence
from typing import ClassVar

from lightning_rlhf import Message, PromptTemplate, Segment
from lightning_rlhf.builtins.templates import HumanAssistantTemplate

__all__ = [
    "INNER_THOUGHTS_ENABLED",
    "ChatGLMTemplate",
    "HHTemplate",
    "MossTemplate",
    "VicunaTemplate",
    "has_inner_steps",
]

INNER_THOUGHTS_ENABLED = "- Inner thoughts: enabled."
"""The line of a meta instruction that tells MOSS to think, and to call tools, before it answers."""


class VicunaTemplate(PromptTemplate):
    """Vicuna's prompt, which it reads ShareGPT with: `USER: … ASSISTANT: …</s>`, all on one line.

    Args:
        preamble: stands at the start of a dialogue that has no system message, which takes its place.
        end: ends each turn of the assistant; where the tokenizer knows it as one token it stops generation, elsewhere
            the EOS after it does.
    """

    _names: ClassVar[Mapping[str, str]] = {"user": "USER: ", "assistant": "ASSISTANT: ", "tool": "TOOL: ", "system": ""}

    def __init__(
        self,
        preamble: str = (
            "A chat between a curious user and an artificial intelligence assistant. "
            "The assistant gives helpful, detailed, and polite answers to the user's questions."
        ),
        end: str = "</s>",
    ) -> None:
        self.preamble = preamble
        self.end = end
        self.stop = (end,) if end else ()

    def render(self, messages: Sequence[Message]) -> list[Segment]:
        """The dialogue in segments; each turn of the assistant is supervised to its end, even an empty one."""
        segments = []
        for index, message in enumerate(messages):
            before = self._before(message.role, messages[index - 1].role if index else None)
            segments += _turn(before, message, self.end if message.role == "assistant" else "")
        return _kept(segments)

    def _before(self, role: str, previous: str | None) -> str:
        if previous is None:
            start = "" if role == "system" or not self.preamble else f"{self.preamble} "
        else:
            start = "" if previous == "assistant" and self.end else " "
        return start + self._names[role]

    @property
    def chat_template(self) -> str:
        """The same rendering as a chat template for transformers."""
        first = f"({_quoted(self.preamble + ' ')} if role != 'system' else '')" if self.preamble else "''"
        after_answer = _quoted("" if self.end else " ")
        return (
            f"{{%- set names = {json.dumps(self._names)} -%}}"
            "{%- macro before(role, index) -%}{{- "
            f"({first} if index == 0 else ({after_answer} if messages[index - 1]['role'] == 'assistant' else ' '))"
            " + names[role] }}{%- endmacro -%}"
            "{%- for message in messages -%}{{- before(message['role'], loop.index0) + message['content'] }}"
            f"{{%- if message['role'] == 'assistant' -%}}{{{{- {_quoted(self.end) if self.end else 'eos_token'} }}}}"
            "{%- endif -%}{%- endfor -%}"
            "{%- if add_generation_prompt -%}{{- before('assistant', messages | length) }}{%- endif -%}"
        )


class HHTemplate(HumanAssistantTemplate):
    r"""The `\n\nHuman: … \n\nAssistant: …` of Anthropic's transcripts; the tokenizer's EOS ends an answer.

    It is the built-in `human_assistant` with the prefixes that the transcripts have.
    """

    def __init__(self) -> None:
        super().__init__()


class ChatGLMTemplate(PromptTemplate):
    r"""ChatGLM's rounds: `[Round 0]\n问：…\n答：…`; the tokenizer's EOS ends an answer.

    The defaults are those of ChatGLM-6B; ChatGLM2-6B counts from 1 and breaks lines twice (`first_round: 1`,
    `line_break: "\n\n"`).

    Args:
        first_round: the number of the first round.
        line_break: stands between the parts of a round, and between rounds.
    """

    _names: ClassVar[Mapping[str, str]] = {"user": "问：", "assistant": "答：", "tool": "工具：", "system": ""}

    def __init__(self, first_round: int = 0, line_break: str = "\n") -> None:
        self.first_round = first_round
        self.line_break = line_break

    def render(self, messages: Sequence[Message]) -> list[Segment]:
        """The dialogue in segments; a round begins with each message of the user."""
        segments = []
        number = self.first_round
        for index, message in enumerate(messages):
            before = (self.line_break if index else "") + self._names[message.role]
            if message.role == "user":
                before = f"{self.line_break if index else ''}[Round {number}]{self.line_break}{self._names['user']}"
                number += 1
            segments += _turn(before, message, "")
        return _kept(segments)

    @property
    def chat_template(self) -> str:
        """The same rendering as a chat template for transformers."""
        line_break = _quoted(self.line_break)
        return (
            f"{{%- set names = {json.dumps(self._names, ensure_ascii=False)} -%}}"
            f"{{%- set ns = namespace(number={self.first_round}) -%}}"
            "{%- for message in messages -%}"
            f"{{%- if not loop.first -%}}{{{{- {line_break} }}}}{{%- endif -%}}"
            "{%- if message['role'] == 'user' -%}"
            f"{{{{- '[Round ' ~ ns.number ~ ']' ~ {line_break} }}}}"
            "{%- set ns.number = ns.number + 1 -%}{%- endif -%}"
            "{{- names[message['role']] + message['content'] }}"
            "{%- if message['role'] == 'assistant' -%}{{- eos_token }}{%- endif -%}{%- endfor -%}"
            f"{{%- if add_generation_prompt -%}}{{{{- ({line_break} if messages else '') + names['assistant'] }}}}"
            "{%- endif -%}"
        )


class MossTemplate(PromptTemplate):
    r"""MOSS's rounds: `<|Human|>: … <eoh>`, `<|MOSS|>: … <eom>`, below the meta instruction.

    With inner steps, the first turn of the assistant in a round is what it thinks (`<|Inner Thoughts|>: … <eot>`), the
    second one its command (`<|Commands|>: … <eoc>`), and those after it, or after what a tool said (`<|Results|>:`),
    are answers.

    Args:
        inner_steps: whether rounds have them; null reads it from the system message, where the line "Inner thoughts:
            enabled" tells MOSS too.
    """

    _names: ClassVar[Mapping[str, tuple[str, str]]] = {
        "user": ("<|Human|>: ", "<eoh>\n"),
        "thoughts": ("<|Inner Thoughts|>: ", "<eot>"),
        "commands": ("<|Commands|>: ", "<eoc>"),
        "answer": ("<|MOSS|>: ", "<eom>"),
        "tool": ("<|Results|>:\n", "\n<eor>\n"),
        "system": ("", "\n"),
    }
    _next: ClassVar[Mapping[str, str]] = {"thoughts": "commands", "commands": "answer", "answer": "answer"}

    stop = ("<eom>", "<eoc>", "<eot>")

    def __init__(self, inner_steps: bool | None = None) -> None:
        self.inner_steps = inner_steps

    def render(self, messages: Sequence[Message]) -> list[Segment]:
        """The dialogue in segments; thoughts, commands and answers are supervised to their ends, even empty ones."""
        system = messages[0].content if messages and messages[0].role == "system" else ""
        inner = has_inner_steps(system) if self.inner_steps is None else self.inner_steps
        segments = []
        step = "answer"
        for message in messages:
            if message.role == "assistant":
                before, end = self._names[step]
                segments += [*_turn(before, message, end), Segment("\n", supervised=False, control=True)]
                step = self._next[step]
                continue
            before, end = self._names[message.role]
            segments += [*_turn(before, message, ""), Segment(end, supervised=False, control=True)]
            if message.role != "system":
                step = "thoughts" if inner and message.role == "user" else "answer"
        return _kept(segments)

    @property
    def chat_template(self) -> str:
        """The same rendering as a chat template for transformers."""
        enabled = _quoted(INNER_THOUGHTS_ENABLED.removeprefix("- ").removesuffix(".").lower())
        read = f"messages and messages[0]['role'] == 'system' and {enabled} in messages[0]['content'] | lower"
        inner = f"({read})" if self.inner_steps is None else str(self.inner_steps).lower()
        return (
            f"{{%- set names = {json.dumps(self._names)} -%}}{{%- set following = {json.dumps(self._next)} -%}}"
            f"{{%- set inner = {inner} -%}}{{%- set ns = namespace(step='answer') -%}}"
            "{%- for message in messages -%}"
            "{%- set name = ns.step if message['role'] == 'assistant' else message['role'] -%}"
            "{{- names[name][0] + message['content'] + names[name][1] }}"
            "{%- if message['role'] == 'assistant' -%}{{- '\\n' }}{%- set ns.step = following[ns.step] -%}"
            "{%- elif message['role'] != 'system' -%}"
            "{%- set ns.step = 'thoughts' if inner and message['role'] == 'user' else 'answer' -%}{%- endif -%}"
            "{%- endfor -%}{%- if add_generation_prompt -%}{{- names[ns.step][0] }}{%- endif -%}"
        )


def has_inner_steps(meta_instruction: str) -> bool:
    """Whether a meta instruction tells MOSS to write down thoughts and commands before it answers."""
    return INNER_THOUGHTS_ENABLED.removeprefix("- ").removesuffix(".").lower() in meta_instruction.lower()


def _turn(before: str, message: Message, end: str) -> list[Segment]:
    learned = message.role == "assistant"
    return [
        Segment(before, supervised=False, control=True),
        Segment(message.content, supervised=learned),
        Segment(end, supervised=learned, control=True),
    ]


def _kept(segments: Sequence[Segment]) -> list[Segment]:
    """Without what is empty, but for an empty turn of the assistant: it is a turn."""
    return [segment for segment in segments if segment.text or (segment.supervised and not segment.control)]


def _quoted(text: str) -> str:
    """A Jinja string."""
    return json.dumps(text, ensure_ascii=False)
