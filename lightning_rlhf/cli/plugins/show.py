"""`plugins show`: one component, what it takes, and a config to paste."""

import inspect
import re
import textwrap
from typing import Any

import yaml

from lightning_rlhf.cli.plugins.arguments import Argument, arguments_of, example_arguments
from lightning_rlhf.plugin_system.manager import plugin_manager
from lightning_rlhf.registry import lookup

__all__ = ["description", "example_config"]

_ARGUMENTS = re.compile(r"^(?:Args|Arguments|Parameters):\n(?:[ \t]+.*\n|\n)*", re.MULTILINE)
_WIDTH = 100

_OPTIONS = {
    "dataset": "--data.source",
    "prompt_template": "--data.template",
    "reward_function": "--model.rewards+",
    "ranking_converter": "--data.converter",
    "model": "--model.base",
}
"""Where a component of each kind goes on the command line, with the stage of `example_config`."""

_NOTES = {
    "dataset": "DemonstrationData reads demonstrations and texts; rankings go to RewardModule with RankingData, "
    "prompts to PPOModule with PromptData.",
    "prompt_template": "RankingData and PromptData take it too; by default they use the template that the model was "
    "trained with.",
    "ranking_converter": "PPOModule takes one too, as model.converter, for several responses per prompt.",
    "model": "Every stage takes it.",
}


def description(kind: str, name: str) -> str:
    """What is known of a component, as text.

    Args:
        kind: one of the five.
        name: its short name.

    Raises:
        UnknownComponentError: nobody offers the name, two plug-ins do, or it was set aside; the message says which.
        PluginError: its signature cannot be read.
    """
    offer = plugin_manager().find(kind, name)
    component, target = lookup(kind, name), plugin_manager().resolve(kind, name)
    arguments = arguments_of(component)
    example = getattr(target, "example", {})  # the target's: what a function makes has an example of its own
    parts = [
        f"{kind} {name}: {offer.summary}".removesuffix(": "),
        f"of {offer.distribution} {offer.version}, {offer.class_path}",
        *_paragraphs(target),
        "\n".join(["arguments:" if arguments else "arguments: none", *map(_argument_text, arguments)]),
        "in a config:",
        _as_yaml(example_config(kind, name, example_arguments(arguments, example))),
        f"on the command line: {_OPTIONS[kind]}={name}",
    ]
    if kind in _NOTES:
        parts.append(textwrap.fill(_NOTES[kind], _WIDTH))
    return "\n\n".join(["\n".join(parts[:2]), *parts[2:]])


def example_config(kind: str, name: str, init_args: dict[str, Any]) -> dict[str, Any]:
    """A small whole config of `fit` that uses the component."""
    component = {"class_path": name, "init_args": init_args} if init_args else {"class_path": name}

    def config(stage: str, arguments: dict[str, Any], data: str, data_arguments: dict[str, Any]) -> dict[str, Any]:
        return {
            "model": {"class_path": stage, "init_args": {"base": "tiny", **arguments}},
            "data": {"class_path": data, "init_args": data_arguments},
        }

    def rows(path: str) -> dict[str, Any]:
        return {"source": {"class_path": "file", "init_args": {"path": path}}}

    demonstrations = rows("demonstrations.jsonl")
    if kind == "dataset":
        return config("SFTModule", {}, "DemonstrationData", {"source": component})
    if kind == "prompt_template":
        return config("SFTModule", {}, "DemonstrationData", {**demonstrations, "template": component})
    if kind == "reward_function":
        return config("PPOModule", {"rewards": [component]}, "PromptData", rows("prompts.jsonl"))
    if kind == "ranking_converter":
        rankings = {**rows("rankings.jsonl"), "converter": component}
        return config("RewardModule", {"loss": "regression"}, "RankingData", rankings)
    return config("SFTModule", {"base": component}, "DemonstrationData", demonstrations)


def _as_yaml(config: dict[str, Any]) -> str:
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH).rstrip()


class _Dumper(yaml.SafeDumper):
    """Writes a line break as an escape, which a reader sees, not as an empty line."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\n" in text else None),
)


def _paragraphs(target: Any) -> list[str]:
    """The target's own docstring, less its arguments, which are shown with their types."""
    own = inspect.cleandoc(target.__doc__ or "")
    return [text] if (text := _ARGUMENTS.sub("", f"{own}\n").strip()) else []


def _argument_text(argument: Argument) -> str:
    heading = f"  {argument.name}: {argument.described}"
    if not argument.help:
        return heading
    return f"{heading}\n{textwrap.fill(argument.help, _WIDTH, initial_indent='      ', subsequent_indent='      ')}"
