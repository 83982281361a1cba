"""`plugins check`: the contract tests on what is installed, a line per component."""

from lightning_rlhf.terminal import escaped
from lightning_rlhf.testing.checking import CheckResult, iterate_checks

__all__ = ["check"]

_WORDS = {"pass": "PASS", "fail": "FAIL", "unchecked": "UNCHECKED"}


def check(distribution: str | None) -> int:
    """Check and print.

    Args:
        distribution: whose components; None: those of every plug-in.

    Returns:
        The exit status: 1 if anything failed.

    Raises:
        ConfigError: no plug-in of that name is installed.
    """
    results = []
    for result in iterate_checks(distribution):
        print(escaped("\n".join(_lines(result))), flush=True)
        results.append(result)
    counts = {verdict: sum(result.verdict == verdict for result in results) for verdict in _WORDS}
    parts = [f"{counts['pass']} passed", f"{counts['fail']} failed"]
    print(", ".join([*parts, f"{counts['unchecked']} unchecked"] if counts["unchecked"] else parts))
    return 1 if counts["fail"] else 0


def _lines(result: CheckResult) -> list[str]:
    what = f"{result.distribution} {result.version}"
    if result.kind is not None:
        what += f"  {result.kind} {result.name}"
    return [f"{_WORDS[result.verdict]}  {what}", *(f"      {reason}" for reason in result.reasons)]
