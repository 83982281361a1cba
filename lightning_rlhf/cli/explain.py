"""Turns the parser's reports into one clear sentence.

jsonargparse reports a fault in a nested, typed config as an outline: which argument, which of a union's alternatives,
which class, which of its arguments, and the whole value again. A user wants the innermost line of it, what would be
right, and what near name was perhaps meant. A report that is not recognised is shown as it is, less the echo.
"""

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, get_args, get_type_hints

from lightning_rlhf.errors import UnknownComponentError
from lightning_rlhf.plugin_system.hookspecs import BASES
from lightning_rlhf.registry import lookup

__all__ = ["Explainer", "near", "without_wrapping"]

_KEY = re.compile(r'^Parser key "(?P<key>[^"]+)":(?P<rest>.*)$')
_CLASS = re.compile(r"^Problem with given class_path '(?P<path>[^']+)':$")
_HELP = re.compile(r"^--(?P<key>[\w.]+)\.help: Expected a dot import path string: (?P<name>.*)$")
_NAME = re.compile(r"^Expected a dot import path string: (?P<name>.*)$")
_PATH = re.compile(r"^Unexpected import path format: (?P<name>.*)$")
_OPTION = re.compile(r"^(Subcommand '\w+' does not accept o|O)ption '(?P<option>[^']+)'( is not accepted)?$")
_WORDS = re.compile(r"^unrecognized arguments: (?P<words>.*)$")
_DENIED = re.compile(r"^(.*: )?Importing '(?P<path>[^']+)' is not allowed, denied by the '(?P<entry>[^']+)' entry")
_ABSTRACT = re.compile(r"^Expected an instantiatable class, but (?P<path>[\w.]+) is abstract")
_MISSING = re.compile(r"^the following arguments are required: (?P<names>.*)$")
_TYPE = re.compile(r"^Expected an? (?P<type><class '[^']+'>|typing\.\S.*?)(\. Got value: (?P<value>.*))?$")
_VALUE = re.compile(r"^Given value: (?P<value>.*)$")
_NESTED_VALUE = re.compile(r"^NestedArg\(key='[^']*', val='?(?P<value>.*?)'?\)$")
_WRAPPINGS = ("Does not validate against any of the Union subtypes", "Problem with given class_path", "Parser key ")
_LONG = 12
"""With more names than these, near ones are shown alone."""
_NOISE = re.compile(r"^(Does not validate against any|Subtypes:|Errors:$|Given value type:|Expected a path but )")


@dataclass(frozen=True, slots=True)
class _Fault:
    """One line that says what is wrong, and where it stands."""

    text: str
    keys: tuple[str, ...]
    class_path: str | None
    depth: int

    @property
    def argument(self) -> str:
        return ".".join(self.keys)


class Explainer:
    """Explains the reports of one subcommand's parser.

    Args:
        subcommand: its name.
        types: the type of each argument that takes a class, by its dotted name.
        options: the dotted names of all plain arguments.
        files: the configuration files that the command names.
    """

    def __init__(
        self, subcommand: str, types: Mapping[str, Any], options: Iterable[str], files: Sequence[str] = ()
    ) -> None:
        self._subcommand = subcommand
        self._types = types
        self._options = sorted(options)
        self._files = " or ".join(files) or "a configuration file"

    def explain(self, report: str) -> str:
        """The report in one or two sentences."""
        if report.startswith("Problems parsing config"):
            return f"{self._files} must be YAML, got text that is not: {' '.join(report.split())}."
        if report.startswith("Unexpected config"):
            return f"{self._files} must be a mapping of options, got {report.partition(':')[2].strip()[:60]!r}."
        faults, value = _outline(report)
        if faults:
            deepest = max(fault.depth for fault in faults)
            innermost = [fault for fault in faults if fault.depth == deepest]
            for fault in innermost:
                for pattern, explain in self._explanations.items():
                    if match := pattern.match(fault.text):
                        return explain(self, fault, match)
            if expected := _expected(innermost, value):
                return f"{innermost[0].argument} must be {expected}"
            if len(innermost) == 1 and innermost[0].keys:
                return f"{innermost[0].argument}: {innermost[0].text}"
        return _without_echo(report)

    def _unknown_option(self, fault: _Fault, match: re.Match[str]) -> str:
        option = match["option"].replace("init_args.", "")
        if fault.class_path is None:
            return self._unknown(option, self._options)
        cls = _imported(fault.class_path)
        if cls is not None and cls is self._types.get(fault.argument):  # no class was named, and the base stands in
            return (
                f"{fault.argument} must name its class (class_path: Name, init_args: ...), got {option!r} without one. "
                f"Offered: {', '.join(_names(cls))}."
            )
        offered = [] if cls is None else [name for name in inspect.signature(cls).parameters if name != "self"]
        name = fault.class_path.rpartition(".")[2]
        meant = near(option, offered) or (f" Its options: {', '.join(offered)}." if offered else "")
        return f"{fault.argument}: {name} must be given options that it has, got {option!r}.{meant}{self._see(fault)}"

    def _unrecognized(self, fault: _Fault, match: re.Match[str]) -> str:
        word = match["words"].split()[0]
        if not word.startswith("-"):
            return f"every argument must be an option (--name value), got {word!r}."
        return self._unknown(word.lstrip("-").partition("=")[0].rstrip("+"), self._options, word)

    def _unknown(self, option: str, offered: Iterable[str], shown: str | None = None) -> str:
        see = f" See lightning-rlhf {self._subcommand} --help."
        return f"every option must be one that {self._subcommand} has, got {shown or option!r}." + (
            near(option, offered) or see
        )

    def _missing(self, fault: _Fault, match: re.Match[str]) -> str:
        names = [name.strip().removeprefix(f"{self._subcommand}.") for name in match["names"].split(",")]
        names = [".".join((*fault.keys, name)) for name in names]
        who = "" if fault.class_path is None else f" ({fault.class_path.rpartition('.')[2]} needs it)"
        kinds = "; ".join(f"{name}: {', '.join(o)}" for name in names if (o := _names(self._types.get(name))))
        return f"{' and '.join(names)} must be given, got nothing{who}.{f' Offered: {kinds}.' if kinds else ''}"

    def _unknown_class(self, fault: _Fault, match: re.Match[str]) -> str:
        name = match["name"]
        keys = (*fault.keys, match["key"]) if "key" in match.re.groupindex else fault.keys
        hint = self._types.get(".".join(keys)) if fault.class_path is None else _hint(fault.class_path, keys[-1])
        argument = ".".join(keys)
        for cls in _classes(hint):
            for kind, base in BASES.items():
                if cls is base:
                    try:
                        lookup(kind, name)
                    except UnknownComponentError as error:
                        return f"{argument}: {error}"
        offered, meant = _names(hint), near(name, _names(hint))
        if not offered or (meant and len(offered) > _LONG):
            return f"{argument} must be a known class's name or a class path, got {name!r}.{meant}"
        return f"{argument} must be one of {', '.join(sorted(offered))}, or a class path, got {name!r}.{meant}"

    def _no_class(self, fault: _Fault, match: re.Match[str]) -> str:
        return f"{self._unknown_class(fault, match)} Only --config reads a file."

    def _not_importable(self, fault: _Fault, match: re.Match[str]) -> str:
        reason = match[0].rstrip(".")
        return f"{fault.argument} must be a class that can be imported, got {fault.class_path!r}: {reason}."

    def _without_class(self, fault: _Fault, match: re.Match[str]) -> str:
        kinds = ", ".join(_names(self._types.get(fault.argument) or _imported(match["path"])))
        return (
            f"--{fault.argument} must name its class before its options, got options first. Give --{fault.argument} "
            f"NAME, and then --{fault.argument}.OPTION.{f' Offered: {kinds}.' if kinds else ''}"
        )

    def _denied(self, fault: _Fault, match: re.Match[str]) -> str:
        return (
            f"{fault.argument or 'every argument'} must name a class of this library, of a plug-in or of your own, got "
            f"{match['path']!r}, which reaches into the system (all of {match['entry']} is denied to configs)."
        )

    def _see(self, fault: _Fault) -> str:
        if len(fault.keys) > 1 or fault.class_path is None:
            return ""
        return f" See lightning-rlhf {self._subcommand} --{fault.argument}.help {fault.class_path.rpartition('.')[2]}."

    _explanations: Mapping[re.Pattern[str], Callable[["Explainer", _Fault, re.Match[str]], str]] = {
        _OPTION: _unknown_option,
        _WORDS: _unrecognized,
        _MISSING: _missing,
        _ABSTRACT: _without_class,
        _DENIED: _denied,
        _HELP: _unknown_class,
        _NAME: _unknown_class,
        _PATH: _no_class,
        re.compile(
            r"^(No module named|module '.*' has no attribute|Unexpected import|cannot import).*"
        ): _not_importable,
    }


def without_wrapping(error: Exception) -> BaseException:
    """What a constructor raised, of the error that the parser made of it after trying a union's other types."""
    inner: BaseException = error
    while str(inner).startswith(_WRAPPINGS) and inner.__cause__ is not None:
        inner = inner.__cause__
    return inner


def near(name: str, offered: Iterable[str]) -> str:
    """A sentence with the offered names that were perhaps meant, else nothing."""
    matches = difflib.get_close_matches(name, list(offered), n=3)
    return f" Did you mean {' or '.join(matches)}?" if matches else ""


def _outline(report: str) -> tuple[list[_Fault], str | None]:
    """The faults of a report, each with the arguments and the class that it stands under, and the innermost value."""
    above: list[tuple[int, str, str]] = []  # indentation, "key" or "class", name
    faults: list[_Fault] = []
    value: str | None = None
    for line in report.splitlines():
        text = line.strip().removeprefix("- ").strip()
        if not text or _NOISE.match(text):
            continue
        if match := _VALUE.match(text):
            value = match["value"] if value is None else value
            continue
        indentation = len(line) - len(line.lstrip())
        above = [entry for entry in above if entry[0] < indentation]
        if match := _KEY.match(text):
            above.append((indentation, "key", match["key"]))
            text = match["rest"].strip()
            if not text:
                continue
        elif match := _CLASS.match(text):
            above.append((indentation, "class", match["path"]))
            continue
        classes = [name for _, kind, name in above if kind == "class"]
        keys = tuple(name for _, kind, name in above if kind == "key")
        faults.append(_Fault(text, keys, classes[-1] if classes else None, len(above)))
    if value is not None and (match := _NESTED_VALUE.match(value)):
        value = match["value"]
    return faults, value


def _expected(faults: Iterable[_Fault], value: str | None) -> str | None:
    """`float or null, got 'x'.` of the alternatives of one argument; None if some line says something else."""
    types: list[str] = []
    for fault in faults:
        match = _TYPE.match(fault.text)
        if match is None:
            return None
        value = match["value"] or value
        types.append(_readable(match["type"]))
    alternatives = " or ".join(dict.fromkeys(types))
    choices = re.findall(r"[\w.-]+", alternatives.removeprefix("one of ")) if alternatives.startswith("one of") else []
    return f"{alternatives}, got {value!r}.{near(value or '', choices)}"


def _readable(type_name: str) -> str:
    if match := re.match(r"<class '(?:[\w.]*\.)?(\w+)'>", type_name):
        return {"NoneType": "null", "str": "a string"}.get(match[1], match[1])
    if match := re.match(r"typing\.Literal\[(.*)\]$", type_name):
        return f"one of {match[1].replace(chr(39), '')}"
    return type_name.removeprefix("typing.")


def _without_echo(report: str) -> str:
    lines = [line for line in report.splitlines() if line.strip()]
    return "\n".join(line for line in lines if not _VALUE.match(line.strip()) and not _NOISE.match(line.strip()))


def _imported(class_path: str) -> Any:
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return None


def _hint(class_path: str, argument: str) -> Any:
    """The type of an argument of a class, looked for along its bases."""
    for cls in getattr(_imported(class_path), "__mro__", ()):
        try:
            hints = get_type_hints(cls.__init__)
        except Exception:  # an annotation that cannot be read only costs the list of names
            continue
        if argument in hints:
            return hints[argument]
    return None


def _classes(hint: Any) -> list[type[Any]]:
    if isinstance(hint, type) and not get_args(hint):
        return [hint]
    return [cls for member in get_args(hint) for cls in _classes(member)]


def _names(hint: Any) -> list[str]:
    """The short names of the classes that an argument of this type takes."""
    families = [_family(cls) for cls in _classes(hint) if cls.__module__ != "builtins"]
    return list(dict.fromkeys(member.__name__ for family in families for member in family))


def _family(cls: type[Any]) -> list[type[Any]]:
    """The classes below one that a user can name."""
    subclasses = type.__subclasses__(cls)
    own = [member for member in subclasses if not (inspect.isabstract(member) or _is_private(member))]
    return own + [member for subclass in subclasses for member in _family(subclass)]


def _is_private(cls: type[Any]) -> bool:
    return cls.__name__.startswith("_") or cls.__module__.startswith("lightning_rlhf.cli.")
