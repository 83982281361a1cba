import itertools
import re

import pytest

from lightning_rlhf.builtins.templates import ChatMLTemplate, TokenizerTemplate
from lightning_rlhf.errors import TemplateError
from lightning_rlhf.plugin_system.interfaces import PromptTemplate, Segment
from lightning_rlhf.testing import PromptTemplateContract


class TestPlain(PromptTemplateContract):
    component = "plain"


class TestPlainWithSeparators(PromptTemplateContract):
    component = "plain"
    init_args = {"response_separator": " -> ", "turn_separator": " | "}


class TestAlpaca(PromptTemplateContract):
    component = "alpaca"


class TestChatML(PromptTemplateContract):
    component = "chatml"


class TestHumanAssistant(PromptTemplateContract):
    component = "human_assistant"


class TestTokenizer(PromptTemplateContract):
    component = "tokenizer"


class Marked(PromptTemplate):
    """`<|role|>`, the text, `<|end|>` and a line break; derived classes spoil it."""

    stop = ("<|end|>",)

    def render(self, messages):
        return [segment for message in messages for segment in self.turn(message)]

    def turn(self, message):
        learned = message.role == "assistant"
        return [
            Segment(f"<|{message.role}|>", supervised=False, control=True),
            Segment(message.content, supervised=learned),
            Segment("<|end|>", supervised=learned, control=True),
            Segment("\n", supervised=False, control=True),
        ]


class WithoutSystem(Marked):
    def turn(self, message):
        if message.role in ("system", "tool"):
            raise TemplateError(f"this template must get dialogues of two, got a {message.role} message.")
        return super().turn(message)


class LearnsTheSpace(Marked):
    def turn(self, message):
        if message.role != "assistant":
            return super().turn(message)
        return [
            Segment("<|assistant|>", supervised=False, control=True),
            Segment(" ", supervised=True, control=True),
            *super().turn(message)[1:],
        ]


class WritesItsBos(Marked):
    def bind(self, tokenizer):
        bound = WritesItsBos()
        bound.bos = tokenizer.bos_token
        return bound

    def render(self, messages):
        return [Segment(self.bos, supervised=False, control=True), *super().render(messages)]


@pytest.mark.parametrize("component", [Marked, WithoutSystem, LearnsTheSpace, WritesItsBos])
def test_a_good_template_passes(faults, component):
    assert faults(PromptTemplateContract, component) == {}


class RendersText(Marked):
    def render(self, messages):
        return "".join(segment.text for segment in super().render(messages))


class RendersBytes(Marked):
    def turn(self, message):
        return [Segment(segment.text.encode(), segment.supervised) for segment in super().turn(message)]


class RefusesEverything(Marked):
    def render(self, messages):
        raise TemplateError("this template must get no dialogue, got one.")


class Binds(Marked):
    def bind(self, tokenizer):
        return None


class Counts(Marked):
    numbers = itertools.count()

    def turn(self, message):
        return [Segment(f"{next(self.numbers)}: ", supervised=False, control=True), *super().turn(message)]


class CountsInstances(Marked):
    numbers = itertools.count()

    def __init__(self):
        self.number = next(self.numbers)

    def turn(self, message):
        return [Segment(f"{self.number}: ", supervised=False, control=True), *super().turn(message)]


class LeavesOutTools(Marked):
    def turn(self, message):
        return [] if message.role == "tool" else super().turn(message)


class Backwards(Marked):
    def render(self, messages):
        return super().render(messages[::-1])


class WithAnotherChatTemplate(ChatMLTemplate):
    @property
    def chat_template(self):
        return super().chat_template.replace("im_start", "im_begin")


class CutsTheRendering(TokenizerTemplate):
    """The joined text holds a special token whose halves stand in two segments."""

    def render(self, messages):
        pieces = []
        for segment in super().render(messages):
            for text in re.split(r"(?<=</)", segment.text):
                pieces.append(Segment(text, segment.supervised, segment.control))
                pieces.append(Segment("", not segment.supervised, segment.control))
        return pieces


class LearnsTheQuestion(Marked):
    def turn(self, message):
        return [Segment(s.text, s.supervised or message.role == "user", s.control) for s in super().turn(message)]


class LearnsNothing(Marked):
    def turn(self, message):
        return [Segment(s.text, s.supervised and s.control, s.control) for s in super().turn(message)]


class LearnsTheMarkerBefore(Marked):
    def turn(self, message):
        learned = message.role == "assistant"
        return [Segment(s.text, learned or s.supervised, s.control) for s in super().turn(message)]


class LearnsTheNextMarker(Marked):
    """What follows an answer is supervised up to the next message."""

    def render(self, messages):
        segments = super().render(messages)
        spoken = False
        rendered = []
        for segment in segments:
            spoken = segment.supervised or (spoken and segment.control)
            rendered.append(Segment(segment.text, spoken, segment.control))
        return rendered


class LearnsNoStop(Marked):
    def turn(self, message):
        return [Segment(s.text, s.supervised and not s.control, s.control) for s in super().turn(message)]


class OnlyTheLast(Marked):
    def render(self, messages):
        last = max((index for index, message in enumerate(messages) if message.role == "assistant"), default=-1)
        return [
            Segment(segment.text, segment.supervised and index == last, segment.control)
            for index, message in enumerate(messages)
            for segment in self.turn(message)
        ]


class PromptsOtherwise(Marked):
    def generation_prompt(self, messages):
        return [*self.render(messages), Segment("<|bot|>", supervised=False, control=True)]


class PromptsTooShort(Marked):
    def generation_prompt(self, messages):
        return self.render(messages)


class PromptsWithoutControl(Marked):
    """The text is right, but the marker before the response is read as characters."""

    def generation_prompt(self, messages):
        *before, marker = super().generation_prompt(messages)
        return [*before, Segment(marker.text, supervised=False)]


class ControlsTheText(Marked):
    def turn(self, message):
        return [Segment(segment.text, segment.supervised, control=True) for segment in super().turn(message)]


class Splits(Marked):
    """Joins the dialogue first, and looks for its markers afterwards."""

    def render(self, messages):
        text = "".join(segment.text for segment in super().render(messages))
        segments, spoken = [], False
        for piece in re.split(r"(<\|\w+\|>\n?)", text):
            marker = piece.startswith("<|")
            segments.append(Segment(piece, spoken and not piece.endswith("user|>"), control=marker))
            spoken = piece.startswith("<|assistant|>") if marker else spoken
        return segments


class Cleans(Marked):
    def turn(self, message):
        content = message.content.replace("<|end|>", "")
        return super().turn(type(message)(message.role, content))


class StopsAtALineBreak(Marked):
    """Every message may write a line break."""

    stop = ("\n",)


class KeepsNoArgument(Marked):
    def __init__(self, prefix="> "):
        self._prefix = prefix

    def turn(self, message):
        return [Segment(self._prefix, supervised=False, control=True), *super().turn(message)]


class KeepsAnotherArgument(Marked):
    def __init__(self, prefix=">"):
        self.prefix = f"{prefix} "

    def turn(self, message):
        return [Segment(self.prefix, supervised=False, control=True), *super().turn(message)]


DEFECTS = [
    ("test_renders_segments", RendersText, "in segments, got '<'"),
    ("test_renders_segments", RendersBytes, "must hold text, got b'<|user|>'"),
    ("test_renders_segments", RefusesEverything, "must render the turns user, assistant, got TemplateError"),
    ("test_renders_segments", Binds, "must return a PromptTemplate, got a NoneType"),
    ("test_renders_the_same_again", Counts, "must be deterministic"),
    ("test_renders_the_same_again", CountsInstances, "must be deterministic"),
    ("test_contains_every_message", LeavesOutTools, "without '{\"celsius\": 21}' in its place"),
    ("test_contains_every_message", Backwards, "must render every message"),
    ("test_segments_join_to_the_rendering", WithAnotherChatTemplate, "must render the same, got '<|im_begin|>user"),
    ("test_segments_join_to_the_rendering", CutsTheRendering, "must join to the rendering, got"),
    ("test_supervises_exactly_what_the_assistant_says", LearnsTheQuestion, "nothing that the user says"),
    ("test_supervises_exactly_what_the_assistant_says", LearnsNothing, "all that the assistant says"),
    ("test_supervises_exactly_what_the_assistant_says", OnlyTheLast, "all that the assistant says"),
    ("test_supervises_exactly_what_the_assistant_says", LearnsTheMarkerBefore, "what stands before the assistant"),
    ("test_supervises_exactly_what_the_assistant_says", LearnsTheNextMarker, "what stands before the user"),
    ("test_supervises_exactly_what_the_assistant_says", LearnsNoStop, "must supervise the '<|end|>' that ends"),
    ("test_generation_prompt_begins_the_rendering", PromptsOtherwise, "must be a prefix of the rendering, got"),
    ("test_generation_prompt_begins_the_rendering", PromptsTooShort, "must end where the response begins, got"),
    ("test_generation_prompt_begins_the_rendering", PromptsWithoutControl, "must have the ids of the dialogue"),
    ("test_no_message_writes_a_marker", ControlsTheText, "must not put text of a message into a control segment"),
    ("test_no_message_writes_a_marker", Splits, "must take what a message says as text, got"),
    ("test_no_message_writes_a_marker", Cleans, "must take what a message says as text, got"),
    ("test_no_message_writes_a_marker", StopsAtALineBreak, "no message may write a special token through"),
    ("test_is_rebuilt_from_its_arguments", KeepsNoArgument, "must keep its argument 'prefix' as an attribute"),
    ("test_is_rebuilt_from_its_arguments", KeepsAnotherArgument, "must render the same when it is rebuilt"),
]


@pytest.mark.parametrize(("check", "component", "message"), DEFECTS)
def test_a_broken_template_is_found(faults, check, component, message):
    found = faults(PromptTemplateContract, component)
    assert message in found[check]
    assert component.__name__ in found[check]


def test_every_check_has_a_template_that_it_finds():
    assert {check for check, _, _ in DEFECTS} == set(PromptTemplateContract.checks())


@pytest.mark.parametrize("component", [Cleans, KeepsNoArgument, LearnsNoStop, PromptsTooShort])
def test_a_fault_of_one_kind_is_no_fault_of_another(faults, component):
    assert len(faults(PromptTemplateContract, component)) == 1


def test_a_template_that_cannot_keep_messages_apart_says_so_and_is_not_tested_for_it(faults):
    assert "test_no_message_writes_a_marker" in faults(PromptTemplateContract, ControlsTheText)
    admitted = type("Admitted", (ControlsTheText,), {"isolates_messages": False})
    assert faults(PromptTemplateContract, admitted) == {}
    tested = type("TestAdmitted", (PromptTemplateContract,), {"component": admitted})
    assert "isolates_messages is False" in tested().exemptions()[0]
    assert type("TestMarked", (PromptTemplateContract,), {"component": Marked})().exemptions() == []
