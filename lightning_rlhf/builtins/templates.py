"""Built-in prompt templates that write the same markers around every turn of a role.

Markers are control segments, what a message says never is: a `<|im_end|>` in a user's text stays text.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lightning_rlhf.builtins.chat_templates import TokenizerTemplate
from lightning_rlhf.plugin_system.interfaces import PromptTemplate, Segment
from lightning_rlhf.records import ROLES, Message

__all__ = ["AlpacaTemplate", "ChatMLTemplate", "HumanAssistantTemplate", "PlainTemplate", "TokenizerTemplate"]


class _Turn(NamedTuple):
    """The markers around the turns of one role."""

    before: str = ""
    end: str = ""
    """Belongs to the turn: supervised in the assistant's."""
    after: str = ""
    again: str | None = None
    """Instead of `before`, after a turn of the same role."""


class _TurnTemplate(PromptTemplate):
    """A template that is a table of markers per role.

    Args:
        turns: the markers of each role.
        first: what stands before the first turn, by its role, instead of the role's `before`.
    """

    def __init__(self, turns: Mapping[str, _Turn], first: Mapping[str, str]) -> None:
        self._turns = dict(turns)
        self._first = dict(first)

    def render(self, messages: Sequence[Message]) -> list[Segment]:
        """The dialogue in segments; each turn of the assistant is supervised to its end marker, even an empty one."""
        segments = []
        for index, message in enumerate(messages):
            turn = self._turns[message.role]
            learned = message.role == "assistant"
            before = self._before(message.role, messages[index - 1].role if index else None)
            segments += [
                Segment(before, supervised=False, control=True),
                Segment(message.content, supervised=learned),
                Segment(turn.end, supervised=learned, control=True),
                Segment(turn.after, supervised=False, control=True),
            ]
        return [segment for segment in segments if segment.text or (segment.supervised and not segment.control)]

    def _before(self, role: str, previous: str | None) -> str:
        turn = self._turns[role]
        if previous is None:
            return self._first.get(role, turn.before)
        return turn.before if turn.again is None or previous != role else turn.again

    @property
    def chat_template(self) -> str:
        """The same rendering as a chat template for transformers, with the EOS that ends a turn without a marker."""
        parts = ["{%- for message in messages -%}"]
        for place, role in enumerate(ROLES):
            turn = self._turns[role]
            parts += [
                f"{{%- {'elif' if place else 'if'} message['role'] == {_quoted(role)} -%}}",
                f"{{{{- {self._choice(role, 'loop.first', 'loop.previtem')} }}}}",
                "{{- message['content'] }}",
                f"{{{{- {_quoted(turn.end + turn.after)} }}}}",
            ]
            if role == "assistant" and not turn.end:
                parts.append("{{- eos_token }}")
        begun = self._choice("assistant", "not messages", "messages[-1]")
        parts += ["{%- endif -%}{%- endfor -%}", f"{{%- if add_generation_prompt -%}}{{{{- {begun} }}}}{{%- endif -%}}"]
        return "".join(parts)

    def _choice(self, role: str, is_first: str, previous: str) -> str:
        """A Jinja expression for what stands before a turn of the role."""
        first, again, before = (_quoted(self._before(role, other)) for other in (None, role, ""))
        return f"{first} if {is_first} else {again} if {previous}['role'] == {_quoted(role)} else {before}"


class PlainTemplate(_TurnTemplate):
    r"""The text alone: the response continues the prompt; the tokenizer's EOS ends it.

    Args:
        response_separator: what stands between a prompt and its response; nothing, so that the policy completes the
            prompt.
        turn_separator: what stands between any other two turns.
    """

    def __init__(self, response_separator: str = "", turn_separator: str = "\n") -> None:
        self.response_separator = response_separator
        self.turn_separator = turn_separator
        turns = {role: _Turn(turn_separator) for role in ROLES}
        turns["assistant"] = _Turn(response_separator, again=turn_separator)
        super().__init__(turns, dict.fromkeys(ROLES, ""))


class AlpacaTemplate(_TurnTemplate):
    """Stanford Alpaca's headings: `### Instruction:` for the user, `### Input:` for a tool, `### Response:`.

    Args:
        preamble: stands at the start of a dialogue that has no system message, which takes its place.
    """

    def __init__(
        self,
        preamble: str = (
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        ),
    ) -> None:
        self.preamble = preamble
        turns = {
            "system": _Turn("\n\n"),
            "user": _Turn("\n\n### Instruction:\n"),
            "assistant": _Turn("\n\n### Response:\n"),
            "tool": _Turn("\n\n### Input:\n"),
        }
        first = {role: preamble + turn.before for role, turn in turns.items()}
        super().__init__(turns, {**first, "system": ""})


class ChatMLTemplate(_TurnTemplate):
    """ChatML: `<|im_start|>` and the role on a line, the text, `<|im_end|>`.

    Where the tokenizer knows `<|im_end|>` as one token it stops generation; elsewhere the EOS after it does.
    """

    stop = ("<|im_end|>",)

    def __init__(self) -> None:
        super().__init__({role: _Turn(f"<|im_start|>{role}\n", "<|im_end|>", "\n") for role in ROLES}, {})


class HumanAssistantTemplate(_TurnTemplate):
    r"""`Human:` and `Assistant:` turns, as in Anthropic's HH data; the tokenizer's EOS ends a response.

    Args:
        user_prefix: what stands before a user's turn.
        assistant_prefix: what stands before the assistant's turn.
        tool_prefix: what stands before a tool's turn.
    """

    def __init__(
        self,
        user_prefix: str = "\n\nHuman: ",
        assistant_prefix: str = "\n\nAssistant: ",
        tool_prefix: str = "\n\nTool: ",
    ) -> None:
        self.user_prefix = user_prefix
        self.assistant_prefix = assistant_prefix
        self.tool_prefix = tool_prefix
        turns = {
            "system": _Turn("\n\n"),
            "user": _Turn(user_prefix),
            "assistant": _Turn(assistant_prefix),
            "tool": _Turn(tool_prefix),
        }
        super().__init__(turns, {"system": ""})


def _quoted(text: str) -> str:
    """A Jinja string."""
    return json.dumps(text)
