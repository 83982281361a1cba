"""`plugins list`: every plug-in, whether it works and what it offers. Imports no torch."""

import json

from lightning_rlhf.plugin_system.component import KINDS
from lightning_rlhf.plugin_system.manager import Manager, PluginRecord

__all__ = ["as_json", "as_text"]


def as_json(manager: Manager) -> str:
    """The list for programs."""
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


def as_text(manager: Manager) -> str:
    """The list for people."""
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
