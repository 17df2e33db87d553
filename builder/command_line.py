"""The kernel command line of the appliance. Pure."""

from __future__ import annotations

from builder.settings import RuntimeSettings

BASE = "console=ttyS0 panic=-1 quiet"
"""A panic ends the machine at once; without `panic=` it would hang forever."""


def command_line(runtime: RuntimeSettings, append: str, *, base: str = BASE) -> str:
    """The kernel command line: the base, the [runtime] settings, then `append`, which has precedence."""
    words = [
        base,
        f"vector_boot.heartbeat_ms={runtime.heartbeat_ms}",
        f"vector_boot.onfail={runtime.onfail}",
        f"vector_boot.energy={runtime.energy}",
        f"vector_boot.fault={runtime.fault}",
        append.strip(),
    ]
    return " ".join(filter(None, words))
