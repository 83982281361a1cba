"""A chat template that asks for the date is told a fixed one, and renders as it does otherwise."""

from datetime import datetime

import pytest

from lightning_rlhf.builtins.models import TinyModel
from lightning_rlhf.builtins.template_clock import with_fixed_date
from lightning_rlhf.builtins.templates import TokenizerTemplate
from lightning_rlhf.records import Message

MOMENT = datetime(2024, 2, 9, 7, 5, 3, 42)
CHAT = [Message("user", "q"), Message("assistant", "a")]


def rendered(chat_template, moment=MOMENT):
    _, tokenizer = TinyModel().load()
    tokenizer.chat_template = chat_template
    chat = [{"role": message.role, "content": message.content} for message in CHAT]
    return tokenizer.apply_chat_template(chat, chat_template=with_fixed_date(chat_template, moment), tokenize=False)


@pytest.mark.parametrize(
    "form",
    ["%d %b %Y", "%Y-%m-%dT%H:%M:%S.%f", "%A, %-d %B %y", "%j %U %p %I", "100%% on %Y", "%%Y", "%D %F %T %e", "", "a"],
)
def test_every_format_gives_what_strftime_gives(form):
    assert rendered(f"{{{{ strftime_now('{form}') }}}}") == MOMENT.strftime(form)


@pytest.mark.parametrize(
    "chat_template",
    [
        "{% if strftime_now is defined %}{% set day = strftime_now('%d %b') %}{% endif %}{{ day | upper }}",
        "{% macro head(text) %}<{{ strftime_now('%Y') }} {{ text }}>{% endmacro %}{{ head('x') }}",
        "{% for message in messages %}{{ strftime_now('%Y') ~ message['content'] }}{% endfor %}",
        "\n  {% if true %}\n{{ strftime_now(format='%m') }} \n  {% endif %}\n",
        "  \n{{ strftime_now('%m') }}",
    ],
)
def test_the_template_renders_as_it_would_at_that_moment(monkeypatch, chat_template):
    from transformers.utils import chat_template_utils

    class Then(datetime):
        @classmethod
        def now(cls, tz=None):
            return MOMENT

    monkeypatch.setattr(chat_template_utils, "datetime", Then)
    _, tokenizer = TinyModel().load()
    chat = [{"role": message.role, "content": message.content} for message in CHAT]
    expected = tokenizer.apply_chat_template(chat, chat_template=chat_template, tokenize=False)
    monkeypatch.undo()
    assert rendered(chat_template) == expected


def test_spans_of_generation_markers_stand_where_they_did():
    _, tokenizer = TinyModel().load()
    tokenizer.chat_template = (
        "{{ strftime_now('%Y') }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
        "{% generation %}{{ message['content'] }}{% endgeneration %}{% else %}{{ message['content'] }}{% endif %}"
        "{% endfor %}"
    )
    segments = TokenizerTemplate().dated(MOMENT).bind(tokenizer).render(CHAT)
    assert [(segment.text, segment.supervised) for segment in segments] == [("2024q", False), ("a", True)]
