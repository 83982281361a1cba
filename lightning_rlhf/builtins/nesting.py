"""Nested rows: one becomes many, such as the questions to each paragraph of an article."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightning_rlhf.builtins.cells import cell_of_list
from lightning_rlhf.errors import ConfigError, RecordError, shown

__all__ = ["exploded_rows", "explosion_steps"]


def explosion_steps(path: str | None) -> tuple[str, ...]:
    """The fields that lead to the lists that are taken apart.

    Raises:
        ConfigError: the path names no field.
    """
    steps = () if path is None else tuple(path.split("."))
    if not all(steps):
        raise ConfigError(f"explode must be a path into a row, such as paragraphs.qas, got {path!r}.")
    return steps


def exploded_rows(row: object, steps: Sequence[str], *, text_cells: bool = False) -> Iterator[tuple[str, Any]]:
    """The rows that stand in a row's lists, each with its place in the row; or the `RecordError` that stands for some.

    A row that comes out has the fields of all levels. An inner field hides an outer one of the same name, which is then
    called by its path; a field of the row itself, `row.NAME`. Members that are no objects keep the list's name.

    >>> article = {"id": 1, "paragraphs": [{"context": "A cat.", "qas": [{"id": 7}, {"id": 8}]}]}
    >>> for place, row in exploded_rows(article, ["paragraphs", "qas"]):
    ...     print(place, row)
    paragraphs.0.qas.0 {'row.id': 1, 'context': 'A cat.', 'id': 7}
    paragraphs.0.qas.1 {'row.id': 1, 'context': 'A cat.', 'id': 8}

    Args:
        row: a mapping of field names to values.
        steps: the field that holds a list, the field of its members that holds one, and so on. A step that holds an
            object is gone through.
        text_cells: the row's fields are strings (csv): a list is JSON.
    """
    if not isinstance(row, Mapping) or not steps:
        yield "", row  # what is no row is told by who reads it
        return
    yield from _members("", {"": dict(row)}, steps, text_cells)


def _members(
    place: str, levels: dict[str, dict[str, Any]], steps: Sequence[str], text_cells: bool
) -> Iterator[tuple[str, Any]]:
    """The rows below the innermost level.

    Args:
        place: of the innermost level in the row.
        levels: path of each level, and its fields; the outermost, the row itself with an empty path, first.
        steps: those that are left.
        text_cells: lists of this level are JSON.
    """
    step, *later = steps
    path, fields = next(reversed(levels.items()))
    below = f"{path}.{step}" if path else step
    try:
        value = _nested(fields, step, text_cells, deeper=bool(later))
    except RecordError as error:
        yield place, error
        return
    outer = {**levels, path: {name: other for name, other in fields.items() if name != step}}
    here = f"{place}.{step}" if place else step
    if isinstance(value, Mapping):
        yield from _members(here, {**outer, below: dict(value)}, later, False)
        return
    for number, member in enumerate(value):
        if later and not isinstance(member, Mapping):
            yield f"{here}.{number}", RecordError(f"a member of '{below}' must be an object, got {shown(member)}.")
        elif later:
            yield from _members(f"{here}.{number}", {**outer, below: dict(member)}, later, False)
        else:
            whole = dict(member) if isinstance(member, Mapping) else {step: member}
            yield f"{here}.{number}", _merged({**outer, below: whole})


def _nested(fields: Mapping[str, Any], step: str, text_cells: bool, *, deeper: bool) -> Any:
    """The list of a field, or the object that leads to one."""
    value = fields.get(step)
    if text_cells and isinstance(value, str):
        value = cell_of_list(step, value)
    if value is None:
        found = "null" if step in fields else f"the fields {shown(list(fields), 200)}"
        raise RecordError(f"a row must have the list '{step}' (explode), got {found}.")
    if isinstance(value, list | tuple) or (deeper and isinstance(value, Mapping)):
        return value
    raise RecordError(f"the field '{step}' must be a list (explode), got {shown(value)}.")


def _merged(levels: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of all levels: the innermost of a name has it, others are called by their path."""
    merged: dict[str, Any] = {}
    owners = {name: path for path, fields in levels.items() for name in fields}
    for path, fields in levels.items():
        for name, value in fields.items():
            merged[name if owners[name] == path else f"{path or 'row'}.{name}"] = value
    return merged
