"""The JSON or TOML document that a recipe is, before it is known to be one."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from vboot.errors import InputError


def read_document(path: Path) -> Any:
    """The JSON or TOML value of a file, by the end of its name. Raises InputError, also for a repeated name."""
    is_toml = path.suffix == ".toml"

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
            raise InputError(f"{path}: {twice!r:.40} stands twice in one object", remedy="give it once")
        return members

    try:
        text = path.read_text("utf-8")
        return tomllib.loads(text) if is_toml else json.loads(text, object_pairs_hook=unique)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})", remedy="name a recipe") from error
    except (ValueError, RecursionError) as error:
        remedy = "correct it" if is_toml or path.suffix == ".json" else "end the name of a TOML file in .toml"
        raise InputError(f"{path} is not {'TOML' if is_toml else 'JSON'} ({error})", remedy=remedy) from error
