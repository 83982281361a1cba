"""A chat template: code in a tokenizer's files, which is rendered in a sandbox."""

import pytest

from lightning_rlhf.builtins.templates import TokenizerTemplate
from lightning_rlhf.errors import TemplateError
from lightning_rlhf.models import load_base
from lightning_rlhf.records import Message

ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen(COMMAND).read() }}",
    "{{ lipsum.__globals__['os'].system(COMMAND) }}",
    "{{ joiner.__init__.__globals__.__builtins__.exec(COMMAND) }}",
    "{{ namespace.__init__.__globals__['os'].system(COMMAND) }}",
    "{{ dict.__init__.__globals__['os'].system(COMMAND) }}",
    "{{ raise_exception.__globals__['__builtins__']['__import__']('os').system(COMMAND) }}",
    "{{ strftime_now.__globals__['__builtins__']['__import__']('os').system(COMMAND) }}",
    "{{ self.__init__.__globals__.__builtins__.__import__('os').system(COMMAND) }}",
    "{{ self._TemplateReference__context.cycler.__init__.__globals__.os.system(COMMAND) }}",
    "{{ (messages|attr('__class__')).__base__ }}",
    "{{ messages|attr('append')|attr('__self__')|attr('__class__') }}",
    "{{ '{0.__class__.__base__}'.format(messages) }}",
    "{% set f = '{0.__class__}'.format %}{{ f(messages) }}",
    "{{ ('{0.__class__}'|attr('format'))(messages) }}",
    "{{ ['{0.__class__}']|map('format', messages)|list }}",
    "{{ messages|map(attribute='__class__')|list }}",
    "{{ tools.append(1) }}{{ messages.append(1) }}",
    "{% include '/etc/passwd' %}",
    "{% import '/etc/passwd' as x %}",
    "{% for i in range(10**9) %}x{% endfor %}",
]
MARKED = "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}"
PLAIN = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"


@pytest.mark.parametrize("around", [PLAIN, MARKED], ids=["plain", "marked"])
@pytest.mark.parametrize("escape", ESCAPES)
def test_a_template_does_not_get_out_of_its_sandbox(model_directory, payload, escape, around):
    """It is refused, or what it would have reached is rendered as nothing."""
    escape = escape.replace("COMMAND", f'"{payload.command}"')
    (model_directory / "chat_template.jinja").write_text(escape + around)
    tokenizer = load_base(str(model_directory)).tokenizer
    assert tokenizer.chat_template == escape + around
    messages = [Message("user", "question"), Message("assistant", "answer")]
    try:
        segments = TokenizerTemplate().bind(tokenizer).render(messages)
    except TemplateError:
        return
    rendered = "".join(segment.text for segment in segments)
    for reached in ("<class", "<built-in", "<function", "root:", "<module"):
        assert reached not in rendered


def test_what_a_message_says_is_never_a_template(model_directory, payload):
    """Of a dataset, then: it is filled in and not looked at again."""
    (model_directory / "chat_template.jinja").write_text(PLAIN)
    template = TokenizerTemplate().bind(load_base(str(model_directory)).tokenizer)
    text = f'{{{{ cycler.__init__.__globals__.os.system("{payload.command}") }}}} {{% raw %}}'
    segments = template.render([Message("user", text), Message("assistant", text)])
    assert "".join(segment.text for segment in segments) == f"[user]{text}[assistant]{text}"


@pytest.mark.parametrize("name", ["plain", "alpaca", "chatml", "human_assistant"])
def test_nor_is_it_one_of_a_template_of_our_own(tiny, name):
    from lightning_rlhf.registry import create

    text = "{{ 7 * 7 }}{% raw %}"
    segments = create("prompt_template", name).bind(tiny[1]).render([Message("user", text), Message("assistant", text)])
    assert "".join(segment.text for segment in segments).count(text) == 2
