"""A fixed date for chat templates, which ask for the present one with `strftime_now`."""

import json
from datetime import datetime

__all__ = ["with_fixed_date"]

_NAME = "strftime_now"
_LETTERS = "aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyYzZf"
_FLAGS = ("", "-", "_", "0", "^", "#")
_PERCENT = "\x00"


def with_fixed_date(chat_template: str, moment: datetime) -> str:
    """The chat template in which `strftime_now` tells a moment.

    Transformers hands templates plain data only, no function. So the template gets a macro of that name, which knows
    what each of strftime's directives stands for.

    Args:
        chat_template: Jinja.
        moment: the time of day for it.

    >>> with_fixed_date("{{ messages }}", datetime(2026, 11, 30))
    '{{ messages }}'
    """
    if _NAME not in chat_template:
        return chat_template
    values = {f"%{flag}{letter}": moment.strftime(f"%{flag}{letter}") for flag in _FLAGS for letter in _LETTERS}
    known = {directive: value for directive, value in values.items() if value != directive}
    pairs = json.dumps([("%%", _PERCENT), *known.items(), (_PERCENT, "%")])
    told = "{% set told.text = told.text.replace(directive, value) %}"
    loop = f"{{% for directive, value in {pairs} %}}{told}{{% endfor %}}{{{{ told.text }}}}"
    macro = f"{{% macro {_NAME}(format) %}}{{% set told = namespace(text=format) %}}{loop}{{% endmacro %}}"
    # the environment of transformers takes the line break after a block away: the template begins a line, as it did
    return f"{macro}\n{chat_template}"
