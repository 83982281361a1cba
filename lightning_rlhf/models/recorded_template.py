"""Which template a model was trained with, as written in `model/rlhf.json`."""

import inspect
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from lightning_rlhf.errors import ModelError, TemplateError, UnknownComponentError
from lightning_rlhf.models.model_files import read_json
from lightning_rlhf.plugin_system.interfaces import PromptTemplate
from lightning_rlhf.plugin_system.manager import plugin_manager
from lightning_rlhf.plugin_system.provenance import versions_in_use
from lightning_rlhf.registry import lookup

__all__ = ["METADATA_FILE", "RecordedTemplate", "read_metadata", "read_recorded_template"]

METADATA_FILE = "rlhf.json"
_KIND = "prompt_template"


class RecordedTemplate(NamedTuple):
    """A template by class path, with the strings that end a turn.

    The default of the next stage's data module.
    """

    class_path: str
    """Importable class of a `PromptTemplate`, for example `lightning_rlhf.builtins.templates.ChatMLTemplate`."""
    init_args: Mapping[str, Any] = {}
    stop: tuple[str, ...] = ()
    provenance: Mapping[str, str] = {}
    """Distributions that were in use and their versions."""

    @classmethod
    def of(cls, template: PromptTemplate) -> "RecordedTemplate":
        """The record of a template.

        Its arguments are read back from attributes of the same names, so a template must keep them.

        Raises:
            TemplateError: the template does not keep an argument, or one that JSON cannot hold.
        """
        kind = type(template)
        init_args = {}
        for name, parameter in inspect.signature(kind).parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            value = getattr(template, name, parameter.default)
            if value is parameter.empty or not _is_plain(value):
                raise TemplateError(
                    f"template {kind.__name__} must keep its argument {name!r} as an attribute that JSON can hold, got "
                    f"{'none' if value is parameter.empty else type(value).__name__}."
                )
            if value != parameter.default:
                init_args[name] = list(value) if isinstance(value, tuple) else value
        versions = versions_in_use(plugin_manager(), [template])
        return cls(f"{kind.__module__}.{kind.__qualname__}", init_args, tuple(template.stop), versions)

    def create(self) -> PromptTemplate:
        """The template itself.

        The path stands in a file that anybody may have written, so nothing is imported because of it: the class is that
        of an installed component, or this process has it already.

        Raises:
            TemplateError: the class is neither, is no template, or does not take the recorded arguments.
        """
        target = _known_class(self.class_path)
        if target is None:
            versions = ", ".join(f"{distribution} {version}" for distribution, version in self.provenance.items())
            raise TemplateError(
                "the model's recorded template must be a component of an installed plug-in or a class that is imported "
                f"already, got {self.class_path!r}. Install its distribution"
                f"{f' (recorded: {versions})' if versions else ''}, or name the template in the config: a model's "
                "files import nothing."
            )
        if not (isinstance(target, type) and issubclass(target, PromptTemplate)):
            raise TemplateError(f"the model's recorded template must be a PromptTemplate, got {self.class_path!r}.")
        try:
            return target(**dict(self.init_args))
        except (TypeError, ValueError, AttributeError) as error:
            raise TemplateError(
                f"the model's recorded template must accept its arguments, got {dict(self.init_args)!r} ({error})."
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain data: for JSON and for checkpoints."""
        return {
            "class_path": self.class_path,
            "init_args": dict(self.init_args),
            "stop": list(self.stop),
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "RecordedTemplate":
        """The reverse of `to_dict`."""
        return cls(
            str(data["class_path"]),
            dict(data.get("init_args", {})),
            tuple(data.get("stop", ())),
            dict(data.get("provenance", {})),
        )


def _known_class(class_path: str) -> Any:
    """What a path means to this process, without importing anything but components of installed plug-ins."""
    manager = plugin_manager()
    offered = manager.components(_KIND)
    module, _, name = class_path.rpartition(".")
    try:
        if module == f"{lookup.__module__}.{_KIND}":
            return lookup(_KIND, name)
        for short, offer in offered.items():
            if offer.class_path == class_path:
                return manager.resolve(_KIND, short)
    except UnknownComponentError as error:
        raise TemplateError(f"the model's recorded template {class_path!r} cannot be used: {error}") from None
    if module in sys.modules:
        return vars(sys.modules[module]).get(name)  # not getattr: a lazy module would import what is asked for
    for short in offered:  # a target may be found under another path than its class's own
        with suppress(UnknownComponentError):
            for cls in lookup(_KIND, short).__mro__:
                if f"{cls.__module__}.{cls.__qualname__}" == class_path:
                    return cls
    return None


def read_metadata(name: str) -> dict[str, Any]:
    """What `rlhf.json` of a model directory or hub id holds; empty when there is none.

    Raises:
        ModelError: the file cannot be read.
    """
    return read_json(name, METADATA_FILE)


def read_recorded_template(name: str | Path) -> RecordedTemplate | None:
    """The template that a model directory or hub id records; None when it records none.

    Raises:
        ModelError: the record cannot be read.
    """
    data = read_metadata(str(name)).get("template")
    if data is None:
        return None
    try:
        return RecordedTemplate.from_dict(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"the template in {METADATA_FILE} of {str(name)!r} must be a mapping, got {data!r}."
        ) from error


def _is_plain(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
