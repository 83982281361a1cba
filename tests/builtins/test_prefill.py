"""What generation prompts write in the assistant's name reaches reward functions as `prefilled`."""

import pytest

from lightning_rlhf.builtins.chat_templates import TokenizerTemplate
from lightning_rlhf.data.tokenization import PromptFormatter
from lightning_rlhf.records import Message

QUESTION = (Message("user", "Hi"),)
DIALOGUE = (*QUESTION, Message("assistant", "<think>\nso\n</think>\n\nHello!"), Message("user", "Bye"))
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content.split('</think>')[-1].lstrip('\n') "
    "if m.role == 'assistant' and HISTORY else m.content) + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' + PREFILL }}{% endif %}"
)
LAST_THINKS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' and loop.last %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
ALL_THINK = LAST_THINKS.replace(" and loop.last", "")


def chatml(prefill, history="true"):
    return CHATML.replace("PREFILL", repr(prefill)).replace("HISTORY", history)


TEMPLATES = {
    "nothing": (chatml(""), ""),
    "opened thoughts, history without": (chatml("<think>\n"), "<think>\n"),
    "opened thoughts, history with": (chatml("<think>\n", "false"), "<think>\n"),
    "closed thoughts": (chatml("<think>\n\n</think>\n\n"), "<think>\n\n</think>\n\n"),
    "words": (chatml("Sure: "), "Sure: "),
    "empty thoughts in the last turn": (LAST_THINKS, "<think>\n"),
    "empty thoughts in all turns": (ALL_THINK, "<think>\n"),
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("messages", [QUESTION, DIALOGUE], ids=["question", "dialogue"])
def test_what_follows_the_opening_of_the_turn_is_prefilled(families, name, messages):
    tokenizer = families["qwen3"].tokenizer()
    tokenizer.chat_template, expected = TEMPLATES[name]
    formatter = PromptFormatter(TokenizerTemplate(), tokenizer)
    assert formatter.prefilled(formatter.render_prompt(messages)) == expected


def test_families_prefill_nothing_but_thoughts(family):
    formatter = PromptFormatter(TokenizerTemplate(), family.tokenizer())
    prompt = formatter.render_prompt(DIALOGUE)
    prefilled = formatter.prefilled(prompt)
    assert prompt.endswith(prefilled)
    assert prefilled.strip() in ("", "<think>")
