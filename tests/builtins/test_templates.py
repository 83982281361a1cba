import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lightning_rlhf.builtins.templates import (
    AlpacaTemplate,
    ChatMLTemplate,
    HumanAssistantTemplate,
    PlainTemplate,
    TokenizerTemplate,
)
from lightning_rlhf.plugin_system.interfaces import Segment
from lightning_rlhf.records import ROLES, Message

TEMPLATES = [PlainTemplate(), PlainTemplate("\n", "\n\n"), AlpacaTemplate(), ChatMLTemplate(), HumanAssistantTemplate()]
all_templates = pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: type(template).__name__)

DIALOGUE = (
    Message("system", "Be kind."),
    Message("user", "Hi"),
    Message("assistant", "Hello!"),
    Message("user", "Bye"),
    Message("assistant", ""),
)

contents = st.text(max_size=8) | st.sampled_from(["<|im_end|>", "<|im_start|>user\n", "</s>", "\n\nHuman: ", ""])
dialogues = st.lists(st.builds(Message, st.sampled_from(ROLES), contents), max_size=6)


def text_of(segments):
    return "".join(segment.text for segment in segments)


def shown(segments):
    """Supervised text in [brackets], for whole renderings that can be read."""
    return "".join(f"[{segment.text}]" if segment.supervised else segment.text for segment in segments)


@pytest.mark.parametrize(
    ("template", "rendering"),
    [
        (PlainTemplate(), "Be kind.\nHi[Hello!]\nBye[]"),
        (PlainTemplate(" -> ", " | "), "Be kind. | Hi -> [Hello!] | Bye -> []"),
        (
            AlpacaTemplate(),
            "Be kind.\n\n### Instruction:\nHi\n\n### Response:\n[Hello!]\n\n### Instruction:\nBye\n\n### Response:\n[]",
        ),
        (
            ChatMLTemplate(),
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\n[Hello!][<|im_end|>]\n"
            "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n[][<|im_end|>]\n",
        ),
        (
            HumanAssistantTemplate(),
            "Be kind.\n\nHuman: Hi\n\nAssistant: [Hello!]\n\nHuman: Bye\n\nAssistant: []",
        ),
    ],
)
def test_a_dialogue_renders_as_its_format_says(template, rendering):
    assert shown(template.render(DIALOGUE)) == rendering


def test_plain_lets_the_policy_complete_the_prompt():
    template = PlainTemplate()
    assert text_of(template.generation_prompt([Message("user", "Once upon")])) == "Once upon"
    assert template.render([Message("user", "Once upon"), Message("assistant", " a time")]) == [
        Segment("Once upon", supervised=False),
        Segment(" a time", supervised=True),
    ]


def test_alpaca_begins_with_its_preamble_unless_there_is_a_system_message():
    user = Message("user", "Hi")
    assert text_of(AlpacaTemplate().render([user])).startswith("Below is an instruction that describes a task. Write")
    assert text_of(AlpacaTemplate("Do it.").generation_prompt([user])) == (
        "Do it.\n\n### Instruction:\nHi\n\n### Response:\n"
    )
    assert "### Input:\n3" in text_of(AlpacaTemplate().render([user, Message("tool", "3")]))


def test_human_assistant_takes_other_prefixes():
    template = HumanAssistantTemplate("\nU:", "\nA:")
    assert text_of(template.generation_prompt([Message("user", "Hi")])) == "\nU:Hi\nA:"


@all_templates
@settings(deadline=None)
@given(dialogues)
def test_text_of_a_message_is_never_control(template, messages):
    segments = template.render(messages)
    plain = "".join(segment.text for segment in segments if not segment.control)
    assert plain == "".join(message.content for message in messages)


@all_templates
@settings(deadline=None)
@given(dialogues)
def test_exactly_the_turns_of_the_assistant_are_supervised(template, messages):
    segments = template.render(messages)
    supervised = [segment.text for segment in segments if segment.supervised and not segment.control]
    assert supervised == [message.content for message in messages if message.role == "assistant"]
    ends = {segment.text for segment in segments if segment.supervised and segment.control}
    assert ends <= set(template.stop)


@all_templates
@settings(deadline=None)
@given(dialogues, contents)
def test_the_generation_prompt_and_a_response_make_the_whole_dialogue(template, messages, response):
    prompt = template.generation_prompt(messages)
    whole = template.render([*messages, Message("assistant", response)])
    assert whole[: len(prompt)] == prompt
    answer = [segment.text for segment in whole[len(prompt) :] if segment.supervised]
    assert answer[0] == response
    assert all(not segment.supervised for segment in prompt[-1:])


@all_templates
@settings(deadline=None)
@given(dialogues)
def test_a_dialogue_begins_as_its_beginning_does(template, messages):
    whole = text_of(template.render(messages))
    for count in range(len(messages)):
        assert whole.startswith(text_of(template.render(messages[:count])))


@pytest.fixture(scope="module")
def tokenizer():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({token: index for index, token in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")


@all_templates
@pytest.mark.parametrize(
    "messages",
    [
        DIALOGUE,
        DIALOGUE[1:],
        DIALOGUE[1:2],
        (*DIALOGUE[:2], Message("tool", '"3" \\ é\t{{ x }}')),
        (*DIALOGUE[:3], DIALOGUE[2]),
    ],
)
def test_the_chat_template_renders_the_same(template, messages, tokenizer):
    chat = [{"role": message.role, "content": message.content} for message in messages]
    expected = ""
    for segment in template.render(messages):
        expected += segment.text
        if segment.supervised and not template.stop:
            expected += "</s>"
    rendered = tokenizer.apply_chat_template(chat, chat_template=template.chat_template, tokenize=False)
    assert rendered == expected
    prompt = tokenizer.apply_chat_template(
        chat, chat_template=template.chat_template, tokenize=False, add_generation_prompt=True
    )
    assert prompt == expected + text_of(template.generation_prompt(messages))[len(text_of(template.render(messages))) :]


def test_only_chatml_and_the_tokenizer_bring_stop_strings():
    assert {type(template).__name__: template.stop for template in [*TEMPLATES, TokenizerTemplate()]} == {
        "PlainTemplate": (),
        "AlpacaTemplate": (),
        "ChatMLTemplate": ("<|im_end|>",),
        "HumanAssistantTemplate": (),
        "TokenizerTemplate": (),
    }


@all_templates
def test_a_template_needs_no_tokenizer(template, tokenizer):
    assert template.bind(tokenizer) is template
