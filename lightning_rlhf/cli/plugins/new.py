"""`plugins new`: writes a complete package to start from. Imports no torch."""

import importlib.metadata
import importlib.util
import keyword
import re
import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from lightning_rlhf.errors import ConfigError
from lightning_rlhf.plugin_system.hookspecs import BASES
from lightning_rlhf.plugin_system.manager import plugin_manager
from lightning_rlhf.version import __version__

__all__ = ["write_package"]

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_LONGEST = 30
_PREFIX = "lightning_rlhf_"
"""Left out of a component's name: `lightning-rlhf-politeness` offers `politeness`."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What the templates of a kind need besides the names."""

    suffix: str
    """What the name of its class ends with."""
    summary: str
    dependencies: tuple[str, ...] = ()


_KINDS = {
    "dataset": _Kind("Source", "sums of two numbers, asked and answered"),
    "prompt_template": _Kind("Template", "one paragraph per turn, opened by the speaker's name"),
    "reward_function": _Kind("Reward", "the share of a response's characters that are wanted"),
    "ranking_converter": _Kind("Converter", "the mean place over the annotators, turned round", ("numpy>=1.26",)),
    "model": _Kind("Model", "a small GPT-2 over bytes with random weights", ("torch>=2.6", "transformers>=5,<6")),
}


def write_package(name: str, kind: str, into: Path) -> str:
    """Write the package `<into>/<name>`, whole or not at all.

    Args:
        name: of the distribution; module and component have the same, with underscores.
        kind: of its component, one of the five.
        into: folder to put it in, made where it is not there.

    Returns:
        What was written and what to do with it, as text.

    Raises:
        ConfigError: the name cannot be used, or the folder is there or cannot be written.
    """
    module = _checked_module(name)
    component = module.removeprefix(_PREFIX)
    _check_component(component, kind)
    place = into / name
    if place.exists() or place.is_symlink():
        raise ConfigError(f"the folder of a new package must not exist, got {place}. Choose another name or --into.")
    texts = {
        target: Template(template.read_text(encoding="utf-8")).substitute(_names(name, module, component, kind))
        for target, template in _templates(kind, module).items()
    }
    _write(place, texts)
    return _told(place, name, kind, component, texts)


def _checked_module(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    hint = f" Did you mean {plain}?" if plain != name and _NAME.fullmatch(plain) else ""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            "the name of a package must be lower-case letters, digits and single hyphens or underscores, with a letter "
            f"first, got {name!r}.{hint}"
        )
    if len(name) > _LONGEST:
        raise ConfigError(f"the name of a package must have at most {_LONGEST} characters, got {len(name)}.")
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or keyword.issoftkeyword(module) or module in sys.stdlib_module_names:
        raise ConfigError(f"the name of a package must not be one of Python's own, got {name!r}. Choose another.")
    if _is_installed(name, module):
        raise ConfigError(
            f"the name of a package must not be that of an installed one, got {name!r}. Choose another, or uninstall "
            "that one."
        )
    return module


def _is_installed(name: str, module: str) -> bool:
    spec = importlib.util.find_spec(module)  # of a top-level module: nothing is imported
    if spec is not None and spec.origin is not None:  # without an origin it is a mere folder that lies here
        return True
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _check_component(component: str, kind: str) -> None:
    for record in plugin_manager().plugins:
        for offer in (*record.components, *record.withheld):
            if (offer.kind, offer.name) == (kind, component):
                raise ConfigError(
                    f"the name of a {_spoken(kind)} must be free, got {component!r}, which {record.distribution} "
                    f"{record.version} offers. Choose another."
                )


def _names(name: str, module: str, component: str, kind: str) -> dict[str, str]:
    """What stands for the placeholders of the templates."""
    chosen = _KINDS[kind]
    camel = "".join(part.capitalize() for part in component.split("_"))
    camel = camel.removesuffix(chosen.suffix) + chosen.suffix
    if camel in {base.__name__ for base in BASES.values()}:
        camel = f"My{camel}"
    oldest = ".".join(__version__.split(".")[:2])
    dependencies = (f"lightning-rlhf>={oldest}", *chosen.dependencies)
    names = {
        "distribution": name,
        "module": module,
        "component": component,
        "class_name": camel,
        "kind": kind,
        "spoken_kind": _spoken(kind),
        "summary": chosen.summary,
        "dependencies": ", ".join(f'"{dependency}"' for dependency in dependencies),
    }
    for part in ("snippet.yaml", "arguments"):
        text = _folder().joinpath(kind, f"{part}.tmpl").read_text(encoding="utf-8")
        names[part.partition(".")[0]] = Template(text).substitute(names).rstrip()
    return names


def _templates(kind: str, module: str) -> dict[str, Traversable]:
    """The template of each file of the package."""
    folder = _folder()
    found = {
        "pyproject.toml": folder / "pyproject.toml.tmpl",
        "README.md": folder / "README.md.tmpl",
        f"{module}.py": folder / kind / "module.py.tmpl",
        f"tests/test_{module}.py": folder / kind / "test_module.py.tmpl",
        "example/fit.yaml": folder / kind / "fit.yaml.tmpl",
    }
    for template in (folder / kind).iterdir():
        if template.name.endswith(".jsonl.tmpl"):
            found[f"example/{template.name.removesuffix('.tmpl')}"] = template
    return found


def _folder() -> Traversable:
    return files("lightning_rlhf.cli.plugins") / "templates"


def _write(place: Path, texts: dict[str, str]) -> None:
    """All files beside the place, then one renaming: a full disk leaves no half of a package."""
    beside: Path | None = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
        for target, text in texts.items():
            path = beside / "whole" / target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        (beside / "whole").rename(place)
    except OSError as error:
        raise ConfigError(f"{place} must be a folder that can be written, got: {error.strerror or error}.") from error
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)


def _told(place: Path, name: str, kind: str, component: str, texts: dict[str, str]) -> str:
    shown = shlex.quote(str(place))
    return "\n".join(
        [
            f"wrote the {_spoken(kind)} {component} to {place}:",
            *(f"  {target}" for target in texts),
            "next:",
            f"  cd {shown}",
            "  pip install -e .",
            f"  lightning-rlhf plugins check {name}",
            "  lightning-rlhf fit --config example/fit.yaml",
        ]
    )


def _spoken(kind: str) -> str:
    return kind.replace("_", " ")
