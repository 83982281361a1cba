"""The contracts, run on what is installed: what `lightning-rlhf plugins check` shows."""

import contextlib
import difflib
import inspect
import io
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lightning_rlhf.errors import ConfigError, PluginError
from lightning_rlhf.plugin_system.discovery import normalised
from lightning_rlhf.plugin_system.manager import Manager, PluginRecord, plugin_manager
from lightning_rlhf.plugin_system.offers import OfferedComponent
from lightning_rlhf.testing.contract import Contract, described
from lightning_rlhf.testing.converters import RankingConverterContract
from lightning_rlhf.testing.datasets import DataSourceContract
from lightning_rlhf.testing.models import ModelSourceContract
from lightning_rlhf.testing.network import without_network
from lightning_rlhf.testing.reward_functions import RewardFunctionContract
from lightning_rlhf.testing.templates import PromptTemplateContract

__all__ = ["CONTRACTS", "CheckResult", "Verdict", "check_components", "iterate_checks"]

Verdict = Literal["pass", "fail", "unchecked"]

CONTRACTS: dict[str, type[Contract[Any]]] = {
    contract.kind: contract
    for contract in (
        DataSourceContract,
        PromptTemplateContract,
        RewardFunctionContract,
        RankingConverterContract,
        ModelSourceContract,
    )
}
"""The contract of each kind."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What became of one component, or of a plug-in that offers none."""

    distribution: str
    version: str
    kind: str | None
    """None for a plug-in that was set aside whole."""
    name: str | None
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    """Why it failed or was not checked; for one that passed, what it says that it does not promise."""


def check_components(distribution: str | None = None) -> list[CheckResult]:
    """Runs the contracts on every component that is installed, the built-in ones too.

    Args:
        distribution: whose components; None: everybody's.

    Raises:
        ConfigError: no plug-in of that name is installed, or Python runs without assertions.
    """
    return list(iterate_checks(distribution))


def iterate_checks(distribution: str | None = None) -> Iterator[CheckResult]:
    """`check_components`, each result as soon as it is known: a large model takes minutes."""
    if sys.flags.optimize:
        raise ConfigError("components must be checked with assertions on, got python -O. Run without it.")
    with _silenced():
        manager = plugin_manager()
    for record in _records(manager, distribution):
        yield from _results(manager, record, is_asked_for=distribution is not None)


def _records(manager: Manager, distribution: str | None) -> list[PluginRecord]:
    if distribution is None:
        return list(manager.plugins)
    found = [record for record in manager.plugins if record.distribution == normalised(distribution)]
    if not found:
        names = [record.distribution for record in manager.plugins]
        near = difflib.get_close_matches(normalised(distribution), names, n=2)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(f"the distribution must be one of {', '.join(names)}, got {distribution!r}.{hint}")
    return found


def _results(manager: Manager, record: PluginRecord, *, is_asked_for: bool) -> Iterator[CheckResult]:
    if record.status != "active":
        reason = f"{record.status}: {record.reason}"
        # what the user keeps out is no fault of anybody's, unless it is what the user wants to see checked
        verdict: Verdict = "unchecked" if record.status == "disabled" and not is_asked_for else "fail"
        yield CheckResult(record.distribution, record.version, None, None, verdict, (reason,))
        return
    for offer in record.components:
        verdict, reasons = _checked(manager, offer)
        yield CheckResult(record.distribution, record.version, offer.kind, offer.name, verdict, tuple(reasons))


def _checked(manager: Manager, offer: OfferedComponent) -> tuple[Verdict, list[str]]:
    try:
        with _silenced():
            target = manager.resolve(offer.kind, offer.name)
    except PluginError as error:
        return "fail", [str(error)]
    example = getattr(target, "example", {})
    given = example if isinstance(example, Mapping) else None  # what else it may be is told of when it is made
    missing = [] if given is None else [name for name in _required(target) if name not in given]
    contract = CONTRACTS[offer.kind]
    if missing:
        return "unchecked", [
            f"it needs {', '.join(missing)}, and its `example` does not say what to check it with. Give its class an "
            f"`example`, or test it with {contract.__name__} and `init_args`."
        ]
    return _run(contract, offer, target)


def _required(target: Any) -> list[str]:
    """The arguments without a default."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(target).parameters.values()
    return [item.name for item in parameters if item.default is item.empty and item.kind not in variadic]


def _run(contract: type[Contract[Any]], offer: OfferedComponent, target: Any) -> tuple[Verdict, list[str]]:
    tested: type[Contract[Any]] = type(contract.__name__, (contract,), {"component": offer.name})
    with _silenced(), without_network() as asked:
        reasons = _faults(tested)
        if not reasons:
            return "pass", tested().exemptions()
    if asked and not getattr(target, "offline", False):
        hosts = ", ".join(dict.fromkeys(asked))
        return "unchecked", [
            f"it needs the network (it asked for {hosts}), which is cut off here. Test it with {contract.__name__}."
        ]
    return "fail", reasons


def _faults(tested: type[Contract[Any]]) -> list[str]:
    """What the tests of a contract find, each fault once."""
    reasons: list[str] = []
    for name in ("make", *tested.checks()):
        try:
            getattr(tested(), name)()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a component may raise anything, SystemExit too
            reason = str(error) if isinstance(error, AssertionError) and str(error) else described(error)
            if reason not in reasons:
                reasons.append(reason)
            if name == "make":
                break
    return reasons


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Components neither write between our lines nor wait for what somebody types; what warnings say is in results."""
    written = io.StringIO()
    before = sys.stdin
    with (
        open(os.devnull) as nothing,  # noqa: PTH123  (a stream is wanted, not a path)
        contextlib.redirect_stdout(written),
        contextlib.redirect_stderr(written),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        sys.stdin = nothing
        try:
            yield
        finally:
            sys.stdin = before
