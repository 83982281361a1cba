"""What the contracts of all kinds share: naming a component, making it, and running the checks without pytest."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from lightning_rlhf.errors import UnknownComponentError
from lightning_rlhf.plugin_system.hookspecs import BASES
from lightning_rlhf.plugin_system.manager import plugin_manager
from lightning_rlhf.registry import create

__all__ = ["Contract", "described"]

Made = TypeVar("Made")


class Contract(Generic[Made]):
    """Tests that every component of a kind must pass; derive from the contract of your kind and name the component.

    The methods that start with `test_` are collected by pytest from every class derived from a contract, whatever its
    name, but not from the contracts themselves. A class that only prepares others says `__test__ = False`.
    """

    __test__ = False
    kind: ClassVar[str]

    component: ClassVar[str | type[Any]]
    """The short name under which the plug-in offers it, or its class."""
    init_args: ClassVar[Mapping[str, Any] | None] = None
    """What it is made with; None: what its class gives as `example`, or nothing."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # What is derived is meant to be tested, unless it says otherwise in its own body.
        cls.__test__ = bool(vars(cls).get("__test__", True))

    @property
    def subject(self) -> str:
        """The component as messages name it."""
        component = getattr(self, "component", None)
        name = component.__name__ if isinstance(component, type) else repr(component)
        return f"{self.kind.replace('_', ' ')} {name}"

    def make(self) -> Made:
        """A new component."""
        component = getattr(self, "component", None)
        assert component is not None, (
            f"{type(self).__name__} must name its component, got none. Set `component` to the short name or the class; "
            "a class that only prepares others says `__test__ = False`."
        )
        arguments = self._of_class("example", {}) if self.init_args is None else self.init_args
        assert isinstance(arguments, Mapping), (
            f"the example of {self.subject} must be a mapping of arguments, got {arguments!r:.80}."
        )
        try:
            made = component(**arguments) if isinstance(component, type) else create(self.kind, component, **arguments)
        except Exception as error:
            raise AssertionError(
                f"{self.subject} must be made with {dict(arguments)!r}, got {described(error)}."
            ) from error
        base = BASES[self.kind]
        assert isinstance(made, base), f"{self.subject} must be a {base.__name__}, got a {type(made).__name__}."
        return made  # type: ignore[no-any-return]

    def _of_class(self, attribute: str, default: Any) -> Any:
        """What the component's class, or the function that makes it, says of itself."""
        component = self.component
        if isinstance(component, type):
            return getattr(component, attribute, default)
        try:
            return getattr(plugin_manager().resolve(self.kind, component), attribute, default)
        except UnknownComponentError as error:
            raise AssertionError(
                f"{self.subject} must be offered by an installed plug-in: {error} Install yours (pip install -e .), or "
                "give the class instead of the name."
            ) from error

    def exemptions(self) -> list[str]:
        """What the component says that it does not promise, and is not tested for."""
        return []

    @classmethod
    def checks(cls) -> Iterator[str]:
        """The names of the tests, in the order in which they are written."""
        seen = set()
        for parent in reversed(inspect.getmro(cls)):
            for name in vars(parent):
                if name.startswith("test_") and name not in seen:
                    seen.add(name)
                    yield name


def described(error: BaseException) -> str:
    """An error in one line."""
    message = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
