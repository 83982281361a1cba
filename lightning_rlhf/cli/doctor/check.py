"""What a check is, and how all of them are run."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from lightning_rlhf.cli.doctor.subject import Subject
from lightning_rlhf.errors import BadRowError, DataError, LightningRLHFError, RecordKindError

__all__ = ["Check", "CheckResult", "Status", "examine"]


class Status(StrEnum):
    """How it looks."""

    PASS = "PASS"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line of the report.

    Args:
        status: how it looks.
        name: of the check.
        finding: what was found, with its numbers.
        fix: what to do about it; empty where there is nothing to do.
    """

    status: Status
    name: str
    finding: str
    fix: str = ""


class Check(ABC):
    """One question to a run that has not started."""

    name: ClassVar[str]
    """What it is called in the report."""

    stages: ClassVar[tuple[str, ...]] = ("sft", "reward", "ppo")
    """The stages that it is about."""

    @abstractmethod
    def results(self, subject: Subject) -> Iterator[CheckResult]:
        """What it finds; nothing where the question does not arise.

        Raises:
            LightningRLHFError: the library itself refuses what is looked at: a finding as well.
        """

    def passed(self, finding: str) -> CheckResult:
        """All is well."""
        return CheckResult(Status.PASS, self.name, finding)

    def warned(self, finding: str, fix: str) -> CheckResult:
        """A run would work, and probably not as its user expects."""
        return CheckResult(Status.WARN, self.name, finding, fix)

    def failed(self, finding: str, fix: str) -> CheckResult:
        """A run would stop, or learn something else than it should."""
        return CheckResult(Status.FAIL, self.name, finding, fix)


def examine(subject: Subject, checks: Iterable[Check]) -> Iterator[CheckResult]:
    """Runs the checks that are about the subject's stage, one after the other.

    What the library refuses while a check looks at it is a FAIL of that check, and told of once: later checks that come
    upon the same are left out.

    Args:
        subject: the run.
        checks: in the order of the report.

    Raises:
        DataError: the rows cannot be read at all.
    """
    told: set[str] = set()
    for check in checks:
        if subject.stage not in check.stages:
            continue
        try:
            yield from check.results(subject)
        except LightningRLHFError as error:
            if isinstance(error, DataError) and not isinstance(error, BadRowError | RecordKindError):
                raise  # a path that does not exist is a mistake in the command, not a finding about what it names
            if str(error) not in told:
                told.add(str(error))
                wrong_kind = isinstance(error, RecordKindError)
                yield check.failed(
                    str(error), "Name that data module in --data, or another source." if wrong_kind else ""
                )
