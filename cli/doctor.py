"""`vboot doctor`: check which of the needed programs and features this host has."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from builder.doctor import Diagnosis, can_build, examine_host
from builder.manifest import NAME as MANIFEST_NAME
from cli import hints
from cli.answer import Answer, columns
from cli.settings_flags import add_settings, read_config


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_settings(parser, verb="doctor")


def run(arguments: argparse.Namespace) -> Answer:
    """Examine the host; exit code 1 if the build lacks something."""
    folder = read_config(arguments).image.output
    diagnoses = examine_host(folder)
    ok = can_build(diagnoses)
    if ok and not (folder / MANIFEST_NAME).exists():
        hints.next_step(hints.command("image", "build"))
    verdict = "everything that the build needs is installed" if ok else "the build needs the missing items above"
    return Answer(
        {"ok": ok, "checks": [asdict(diagnosis) for diagnosis in diagnoses]},
        columns([("what", "needed to", "found"), *map(_row, diagnoses)]) + f"\n{verdict}",
        exit_code=0 if ok else 1,
    )


def _row(diagnosis: Diagnosis) -> tuple[str, str, str]:
    if diagnosis.found is None:
        return diagnosis.name, diagnosis.needed_by, f"MISSING ({diagnosis.purpose}): {diagnosis.remedy}"
    return diagnosis.name, diagnosis.needed_by, diagnosis.found
