import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lightning_rlhf.builtins.chat_templates import TokenizerTemplate
from lightning_rlhf.errors import TemplateError
from lightning_rlhf.records import Message

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED_END = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|im_end|>{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN_END = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
DIALOGUE = [
    Message("user", "Hi"),
    Message("assistant", "Hello! "),
    Message("user", "Bye"),
    Message("assistant", "See you"),
]


def tokenizer_with(chat_template):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({token: index for index, token in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="</s>", additional_special_tokens=["<|im_start|>", "<|im_end|>"]
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def bound(chat_template):
    return TokenizerTemplate().bind(tokenizer_with(chat_template))


def supervised(segments):
    return [segment.text for segment in segments if segment.supervised]


def text_of(segments):
    return "".join(segment.text for segment in segments)


@pytest.mark.parametrize("chat_template", [CHATML, MARKED, MARKED_END], ids=["without", "around_text", "around_turn"])
def test_every_assistant_turn_is_supervised_to_its_end_marker_with_and_without_generation_markers(chat_template):
    template = bound(chat_template)
    assert template.stop == ("<|im_end|>",)
    segments = template.render(DIALOGUE)
    assert supervised(segments) == ["Hello! <|im_end|>", "See you<|im_end|>"]
    chat = [{"role": message.role, "content": message.content} for message in DIALOGUE]
    assert text_of(segments) == tokenizer_with(CHATML).apply_chat_template(chat, tokenize=False)


def test_a_turn_without_an_end_marker_ends_before_the_line_break():
    template = bound(PLAIN_END)
    assert template.stop == ()
    assert template.turn_ends(DIALOGUE) == [2, 4]
    assert [supervised(template.render(DIALOGUE[:end])) for end in (2, 4)] == [["Hello! "], ["See you"]]


@settings(deadline=None)
@given(st.sampled_from([CHATML, MARKED, MARKED_END, PLAIN_END]), st.integers(0, 2), st.text(max_size=6))
def test_the_generation_prompt_and_a_response_make_the_whole_dialogue(chat_template, num_pairs, response):
    template = bound(chat_template)
    messages = DIALOGUE[: 2 * num_pairs]
    messages = [*messages, Message("user", "And?")]
    prompt = text_of(template.generation_prompt(messages))
    whole = template.render([*messages, Message("assistant", response)])
    before = ""
    for segment in whole:
        if segment.supervised and len(before) >= len(prompt):
            assert before == prompt
            assert segment.text.startswith(response)
            return
        before += segment.text
    raise AssertionError("no response stands after the prompt")


def test_a_dialogue_without_the_assistant_is_one_unsupervised_segment():
    (segment,) = bound(CHATML).render(DIALOGUE[:1])
    assert not segment.supervised
    assert segment.control


@pytest.mark.parametrize(
    ("chat_template", "rule"),
    [
        (MARKED.replace("== 'assistant'", "== 'nobody'"), "nothing is marked as the assistant's"),
        (
            "{% generation %}{% for message in messages %}{{ message['content'] }}{% endfor %}{% endgeneration %}",
            "all is marked as the assistant's",
        ),
        (
            MARKED.replace("assistant\n{% endif %}", "assistant{% endif %}"),
            "begin the assistant's part where its generation prompt ends",
        ),
    ],
    ids=["nothing_marked", "all_marked", "prompt_too_short"],
)
def test_a_chat_template_that_hides_what_the_assistant_wrote_is_refused(chat_template, rule):
    with pytest.raises(TemplateError, match=rule):
        bound(chat_template).render(DIALOGUE)


def test_a_tokenizer_without_a_chat_template_is_refused():
    with pytest.raises(TemplateError, match="must have a chat template"):
        bound(None)


def test_a_chat_template_that_leaves_the_answer_out_is_refused_at_once():
    with pytest.raises(TemplateError, match="render the text of the assistant's turn"):
        bound("{{ messages[0]['content'] }}")


def test_what_a_chat_template_raises_becomes_a_template_error_that_names_the_turns():
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + CHATML
    with pytest.raises(TemplateError, match=r"the turns system, user, got TemplateError: no system turn"):
        bound(strict).render([Message("system", "x"), Message("user", "y")])


def test_an_unbound_template_cannot_render():
    with pytest.raises(TemplateError, match="must be bound"):
        TokenizerTemplate().render(DIALOGUE)


def test_binding_leaves_the_template_itself_unbound():
    template = TokenizerTemplate()
    template.bind(tokenizer_with(CHATML))
    assert template.stop == ()
    with pytest.raises(TemplateError, match="must be bound"):
        template.generation_prompt(DIALOGUE[:1])
