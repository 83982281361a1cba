"""`lightning-rlhf plugins`: what is installed, whether it works, and what it offers. Imports no torch."""

import argparse
import json
from collections.abc import Sequence

from lightning_rlhf.plugin_system.component import KINDS
from lightning_rlhf.plugin_system.manager import Manager, PluginRecord, plugin_manager

__all__ = ["run"]


def run(argv: Sequence[str]) -> int:
    """Run `plugins` with the words after it.

    Raises:
        SystemExit: the words are not understood (2), or help was asked for (0).
    """
    parser = argparse.ArgumentParser(
        prog="lightning-rlhf plugins", description="Installed plug-ins and what they offer.", allow_abbrev=False
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    listing = commands.add_parser("list", help="every plug-in: version, status, components", allow_abbrev=False)
    listing.add_argument("--json", action="store_true", help="print JSON for programs")
    arguments = parser.parse_args(argv)
    manager = plugin_manager()
    print(_as_json(manager) if arguments.json else _as_text(manager))
    return 0


def _as_json(manager: Manager) -> str:
    plugins = [
        {
            "distribution": record.distribution,
            "version": record.version,
            "status": record.status,
            "reason": record.reason,
            "components": [
                {"kind": offer.kind, "name": offer.name, "summary": offer.summary} for offer in record.components
            ],
        }
        for record in manager.plugins
    ]
    return json.dumps(plugins, indent=2)


def _as_text(manager: Manager) -> str:
    return "\n\n".join("\n".join(_lines(record, manager)) for record in manager.plugins)


def _lines(record: PluginRecord, manager: Manager) -> list[str]:
    heading = f"{record.distribution} {record.version}  {record.status}"
    lines = [f"{heading}: {record.reason}" if record.reason else heading]
    width = max((len(offer.name) for offer in record.components), default=0)
    for kind in KINDS:
        conflicts = manager.conflicts(kind)
        for offer in record.components:
            if offer.kind != kind:
                continue
            note = f"{offer.summary} (also offered by another plug-in: use {offer.class_path})"
            summary = note.lstrip() if offer.name in conflicts else offer.summary
            lines.append(f"  {kind:<17}  {offer.name:<{width}}  {summary}".rstrip())
    return lines
