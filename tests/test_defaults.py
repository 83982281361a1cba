"""The defaults of public arguments: what a config that leaves them out means, today and after the next release.

They stand in defaults.json, which `python tests/test_defaults.py` writes anew: when one is meant to change, which the
changelog then says, and when arguments have come.
"""

import importlib
import inspect
import json
import pkgutil
from pathlib import Path

from lightning_rlhf import callbacks

PINNED = Path(__file__).with_name("defaults.json")
PUBLIC = (
    *("lightning_rlhf", "lightning_rlhf.functional", "lightning_rlhf.rollout"),
    *(f"{callbacks.__name__}.{module.name}" for module in pkgutil.iter_modules(callbacks.__path__)),
)


def public_objects():
    """Every public class and function by its name, and every component of this library."""
    from lightning_rlhf.plugin_system.component import KINDS
    from lightning_rlhf.plugin_system.manager import plugin_manager

    for module in PUBLIC:
        for name in importlib.import_module(module).__all__:
            yield f"{module}.{name}", getattr(importlib.import_module(module), name)
    manager = plugin_manager()
    for kind in KINDS:
        for name, offer in manager.components(kind).items():
            if offer.class_path.startswith("lightning_rlhf."):
                yield f"{kind} {name}", manager.resolve(kind, name)


def defaults():
    found = {}
    for name, subject in public_objects():
        if inspect.isclass(subject) or inspect.isfunction(subject):
            parameters = inspect.signature(subject).parameters.values()
            shown = {
                each.name: f"a {type(each.default).__name__}" if callable(each.default) else repr(each.default)
                for each in parameters
                if each.default is not each.empty
            }
            if shown:
                found[name] = shown
    return dict(sorted(found.items()))


def test_the_defaults_of_public_arguments_are_those_that_were_promised():
    pinned, found = json.loads(PINNED.read_text(encoding="utf-8")), defaults()
    assert len(pinned) > 40
    for name, arguments in pinned.items():
        now = {argument: found.get(name, {}).get(argument, "gone") for argument in arguments}
        assert now == arguments, f"{name}: if that is meant, run tests/test_defaults.py and say so in the changelog"


if __name__ == "__main__":
    PINNED.write_text(json.dumps(defaults(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
