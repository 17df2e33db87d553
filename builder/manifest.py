"""manifest.json: what an image consists of and what it was made from. No time stamps: same input, same bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.settings import Config
from builder.steps import Facts
from vboot.errors import InputError

NAME = "manifest.json"
VERSION = 1


@dataclass(frozen=True)
class OutputFile:
    """A file of the image: its name within the output folder, size in bytes, SHA-256 (hex)."""

    path: str
    size: int
    sha256: str


def render_manifest(
    *,
    outputs: list[OutputFile],
    inputs: Mapping[str, Facts],
    tools: Mapping[str, str],
    configuration: Mapping[str, Any],
) -> bytes:
    """The manifest as JSON with sorted keys.

    `inputs` holds the facts of each step by its name, `tools` versions by tool, `configuration` settings by section.
    """
    document = {
        "version": VERSION,
        "outputs": {output.path: {"bytes": output.size, "sha256": output.sha256} for output in outputs},
        "inputs": {name: dict(facts) for name, facts in inputs.items() if facts},
        "tools": dict(tools),
        "configuration": dict(configuration),
    }
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
    # Bytes of a file name that are not UTF-8 are surrogates here; they must be escaped to be valid JSON.
    return text.encode("utf-8", "backslashreplace") + b"\n"


def parse_outputs(data: bytes, *, origin: str) -> dict[str, OutputFile]:
    """The outputs a manifest lists, by path. Raises InputError, which names `origin`, if it is not a manifest."""
    try:
        document = json.loads(data)
        version = document["version"]
        outputs = {
            path: OutputFile(path, entry["bytes"], entry["sha256"]) for path, entry in document["outputs"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{origin} is not a manifest", remedy="run `vboot build` again") from error
    if version != VERSION:
        raise InputError(
            f"{origin} is a manifest of version {version}, expected {VERSION}", remedy="use the vboot that wrote it"
        )
    if not all(type(output.size) is int and isinstance(output.sha256, str) for output in outputs.values()):
        raise InputError(f"{origin} is not a manifest", remedy="run `vboot build` again")
    return outputs


def file_name(path: Path) -> str:
    """The last part of a path as UTF-8 text; bytes that are not UTF-8 are written as "\\xff"."""
    return os.fsencode(path.name).decode(errors="backslashreplace")


def configuration_of(config: Config) -> dict[str, dict[str, Any]]:
    """The settings that shape the image, by section.

    Of a path only the last part is kept; the output folder and the machine's settings are left out. So the same image
    built in another folder has the same manifest.
    """
    return {
        "model": {
            "source": file_name(Path(config.model.source)),
            "type": config.model.type,
            "pooling": config.model.pooling,
            "max_tokens": config.model.max_tokens,
        },
        "image": {
            "security_version": config.image.security_version,
            "signing_key": config.image.signing_key and file_name(config.image.signing_key),
        },
        "kernel": {
            "source": file_name(Path(config.kernel.source)),
            "config": config.kernel.config and file_name(config.kernel.config),
            "modules": config.kernel.modules and file_name(config.kernel.modules),
        },
        "runtime": {
            "heartbeat_ms": config.runtime.heartbeat_ms,
            "onfail": config.runtime.onfail,
            "energy": config.runtime.energy,
            "fault": config.runtime.fault,
        },
    }
