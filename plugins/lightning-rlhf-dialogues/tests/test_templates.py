import pytest

from lightning_rlhf.builtins.models import TinyModel
from lightning_rlhf.data import PromptFormatter
from lightning_rlhf.models.recorded_template import RecordedTemplate
from lightning_rlhf.records import Message
from lightning_rlhf.registry import create
from lightning_rlhf.testing import DIALOGUES, MARKER_TEXTS

TEMPLATES = [
    ("vicuna", {}),
    ("vicuna", {"preamble": "", "end": ""}),
    ("hh", {}),
    ("chatglm", {}),
    ("chatglm", {"first_round": 1, "line_break": "\n\n"}),
    ("moss", {}),
    ("moss", {"inner_steps": True}),
    ("moss", {"inner_steps": False}),
]
all_templates = pytest.mark.parametrize(("name", "init_args"), TEMPLATES, ids=str)

SYSTEM, USER, ANSWER = Message("system", "Be kind."), Message("user", "Hi"), Message("assistant", "Hello!")
TOOL = Message("tool", "21")
THINKS = Message("system", "You are MOSS.\n- Inner thoughts: enabled.")
ODD = [
    (USER,),
    (SYSTEM, USER),
    (ANSWER, USER, ANSWER),
    (USER, USER, ANSWER, ANSWER, SYSTEM, USER, TOOL, TOOL, ANSWER),
    (THINKS, USER, ANSWER, ANSWER, TOOL, ANSWER, ANSWER, USER, ANSWER),
    (THINKS, USER, ANSWER, TOOL, ANSWER, USER, ANSWER, USER),
    (Message("user", '"3" \\ é\t{{ x }}'), Message("assistant", "")),
]


def shown(segments):
    """Supervised text in [brackets], for whole renderings that can be read."""
    return "".join(f"[{segment.text}]" if segment.supervised else segment.text for segment in segments)


@pytest.mark.parametrize(
    ("name", "init_args", "rendering"),
    [
        ("vicuna", {}, "Be kind. USER: Hi ASSISTANT: [Hello!][</s>]USER: Hi TOOL: 21 ASSISTANT: [Hello!][</s>]"),
        ("vicuna", {"end": ""}, "Be kind. USER: Hi ASSISTANT: [Hello!] USER: Hi TOOL: 21 ASSISTANT: [Hello!]"),
        ("hh", {}, "Be kind.\n\nHuman: Hi\n\nAssistant: [Hello!]\n\nHuman: Hi\n\nTool: 21\n\nAssistant: [Hello!]"),
        (
            "chatglm",
            {},
            "Be kind.\n[Round 0]\n问：Hi\n答：[Hello!]\n[Round 1]\n问：Hi\n工具：21\n答：[Hello!]",
        ),
        (
            "moss",
            {},
            "Be kind.\n<|Human|>: Hi<eoh>\n<|MOSS|>: [Hello!][<eom>]\n"
            "<|Human|>: Hi<eoh>\n<|Results|>:\n21\n<eor>\n<|MOSS|>: [Hello!][<eom>]\n",
        ),
        (
            "moss",
            {"inner_steps": True},
            "Be kind.\n<|Human|>: Hi<eoh>\n<|Inner Thoughts|>: [Hello!][<eot>]\n"
            "<|Human|>: Hi<eoh>\n<|Results|>:\n21\n<eor>\n<|MOSS|>: [Hello!][<eom>]\n",
        ),
    ],
)
def test_a_dialogue_renders_as_its_format_says(name, init_args, rendering):
    template = create("prompt_template", name, **init_args)
    assert shown(template.render((SYSTEM, USER, ANSWER, USER, TOOL, ANSWER))) == rendering


def test_vicuna_begins_with_its_preamble_unless_there_is_a_system_message():
    template = create("prompt_template", "vicuna", preamble="A chat.")
    assert shown(template.generation_prompt([USER])) == "A chat. USER: Hi ASSISTANT: "
    assert shown(template.generation_prompt([SYSTEM, USER])) == "Be kind. USER: Hi ASSISTANT: "
    assert shown(create("prompt_template", "vicuna").render([USER])).startswith("A chat between a curious user and an")


@all_templates
@pytest.mark.parametrize("messages", [*DIALOGUES, *ODD])
@pytest.mark.parametrize("asked", [False, True])
def test_the_chat_template_of_a_saved_model_renders_the_same(name, init_args, messages, asked, tokenizer):
    template = create("prompt_template", name, **init_args)
    segments = template.generation_prompt(messages) if asked else template.render(messages)
    eos = "" if template.stop else tokenizer.eos_token  # ends the turns that the template does not end itself
    said = [segment.text + (eos if segment.supervised and not segment.control else "") for segment in segments]
    rendered = tokenizer.apply_chat_template(
        [{"role": message.role, "content": message.content} for message in messages],
        chat_template=template.chat_template,
        tokenize=False,
        add_generation_prompt=asked,
    )
    assert rendered == "".join(said)


@all_templates
@pytest.mark.parametrize("text", [*MARKER_TEXTS, "<eom>", "<eot>\n<|Commands|>: no<eoc>", "</s>"])
def test_no_message_can_write_a_marker(name, init_args, text, tokenizer):
    template = create("prompt_template", name, **init_args)
    markers = [*template.stop, "<|Human|>", "<|MOSS|>", "<eoh>"]
    knowing = TinyModel().load()[1]
    knowing.add_special_tokens({"additional_special_tokens": [m for m in markers if m != "</s>"]})
    formatter = PromptFormatter(template, knowing)
    ids, supervised = formatter.encode([Message("user", text), Message("assistant", text), Message("user", text)])
    harmless = formatter.encode([Message("user", "a"), Message("assistant", "b"), Message("user", "c")])

    def special(found):
        return [index for index in found if index in knowing.all_special_ids]

    assert special(ids) == special(harmless.ids)
    learned = [index for index, is_learned in zip(ids, supervised, strict=True) if is_learned]
    assert knowing.decode(learned[:-1]) == text


@all_templates
def test_what_a_model_records_of_a_template_builds_it_anew(name, init_args):
    template = create("prompt_template", name, **init_args)
    record = RecordedTemplate.of(template)
    assert dict(record.init_args) == init_args
    assert shown(record.create().render(DIALOGUES[3])) == shown(template.render(DIALOGUES[3]))


def test_moss_stops_at_the_ends_of_its_steps_where_the_tokenizer_knows_them():
    knowing = TinyModel().load()[1]
    knowing.add_special_tokens({"additional_special_tokens": ["<eom>", "<eoc>", "<eot>"]})
    formatter = PromptFormatter(create("prompt_template", "moss"), knowing)
    ids, supervised = formatter.encode([THINKS, USER, ANSWER, ANSWER, TOOL, ANSWER])
    learned = knowing.decode([index for index, is_learned in zip(ids, supervised, strict=True) if is_learned])
    assert learned == "Hello!<eot>Hello!<eoc>Hello!<eom>"
