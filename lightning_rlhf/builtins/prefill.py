"""Text that a chat template's generation prompt writes in the assistant's name, such as an opened `<think>`."""

import re
from collections.abc import Callable

from lightning_rlhf.errors import TemplateError
from lightning_rlhf.records import Message

__all__ = ["turn_opening"]

_QUESTION, _ANSWER = Message("user", "question"), Message("assistant", "answer")
_EMPTY_THOUGHTS = re.compile(r"[<\[]([^\s<>\[\]/]+)[>\]]\s*[<\[]/\1[>\]]\s*\Z")


def turn_opening(rendered: Callable[..., str]) -> str | None:
    """What opens an assistant's turn, with nothing that the assistant says: what follows it in a prompt is prefilled.

    It is read off an earlier turn, whose thoughts most templates drop; empty ones that a template writes are not part
    of it.

    Args:
        rendered: the text of a dialogue; with `generation` of what the policy continues.

    Returns:
        None where the template does not show it.
    """
    try:
        asked, continued = rendered([_QUESTION]), rendered([_QUESTION], generation=True)
        whole = rendered([_QUESTION, _ANSWER, _QUESTION])
    except TemplateError:
        return None
    if not (continued.startswith(asked) and whole.startswith(asked)):
        return None
    before, found, _ = whole.removeprefix(asked).partition(_ANSWER.content)
    opening = _EMPTY_THOUGHTS.sub("", before)
    return opening if found and opening and continued.removeprefix(asked).startswith(opening) else None
