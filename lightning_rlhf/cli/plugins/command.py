"""The words after `plugins`. Imports no torch; only `show` and `check` load what they look at."""

import argparse
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from lightning_rlhf.cli.plugins.listing import as_json, as_text
from lightning_rlhf.cli.plugins.names import check_kind
from lightning_rlhf.plugin_system.component import KINDS
from lightning_rlhf.plugin_system.manager import plugin_manager
from lightning_rlhf.terminal import escaped

__all__ = ["run"]

_KIND_HELP = f"one of {', '.join(KINDS)}"


def run(argv: Sequence[str]) -> int:
    """Run `plugins` with the words after it.

    Returns:
        The exit status: 1 if `check` found a failure.

    Raises:
        LightningRLHFError: the user's mistake: an unknown kind, component or distribution, a name that cannot be used.
        SystemExit: the words are not understood (2), or help was asked for (0).
    """
    arguments = _parser().parse_args(argv)
    status: int = arguments.run(arguments)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-rlhf plugins",
        description="Installed plug-ins and what they offer, and the start of a new one.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    listing = commands.add_parser("list", help="every plug-in: version, status, components", allow_abbrev=False)
    listing.add_argument("--json", action="store_true", help="print JSON for programs")
    listing.set_defaults(run=_list)

    show = commands.add_parser("show", help="one component: arguments, origin, a config to paste", allow_abbrev=False)
    show.add_argument("kind", metavar="KIND", help=_KIND_HELP)
    show.add_argument("name", metavar="NAME", help="short name of the component")
    show.set_defaults(run=_show)

    check = commands.add_parser("check", help="run the contract tests on what is installed", allow_abbrev=False)
    check.add_argument("distribution", metavar="DISTRIBUTION", nargs="?", help="a plug-in; default: all")
    check.set_defaults(run=_check)

    new = commands.add_parser("new", help="write a complete package to start from", allow_abbrev=False)
    new.add_argument("name", metavar="NAME", help="of the package; its component has the same, with underscores")
    new.add_argument("--kind", metavar="KIND", required=True, help=_KIND_HELP)
    new.add_argument("--into", metavar="DIR", type=Path, default=Path(), help="folder to put it in; default: this one")
    new.set_defaults(run=_new)
    return parser


def _list(arguments: argparse.Namespace) -> int:
    print(as_json(plugin_manager()) if arguments.json else escaped(as_text(plugin_manager())))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    check_kind(arguments.kind)
    print(escaped(import_module("lightning_rlhf.cli.plugins.show").description(arguments.kind, arguments.name)))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    status: int = import_module("lightning_rlhf.cli.plugins.check").check(arguments.distribution)
    return status


def _new(arguments: argparse.Namespace) -> int:
    check_kind(arguments.kind)
    print(import_module("lightning_rlhf.cli.plugins.new").write_package(arguments.name, arguments.kind, arguments.into))
    return 0
