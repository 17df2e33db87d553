"""The settings that an output folder was built with: the next build changes only those that it is asked to.

A file beside the image holds them, since the manifest has no paths: the same image has the same manifest in any folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.manifest import NAME as MANIFEST_NAME
from builder.manifest import read_manifest
from builder.settings import SETTINGS, Config, Setting, Value
from image.streams import open_input
from vboot.errors import InputError
from vboot.files import atomic_write
from vboot.text import path_text

NAME = ".vboot-settings.json"
VERSION = 1
BUILT = tuple(setting for setting in SETTINGS if "build" in setting.verbs and setting.name != "image.output")
"""The settings of a build. The output folder is where they are kept, those of a machine are of one boot."""
_LEADERS = ("model.source", "kernel.source")
"""Another model or kernel does not inherit the other settings of its section."""
_LIMIT_BYTES = 1 << 20


def recall(folder: Path) -> dict[str, Value]:
    """The settings of the last build in `folder` that are not the defaults, by name; none if there was none."""
    stored = _stored(folder / NAME)
    if stored is None:
        return _from_manifest(folder / MANIFEST_NAME)
    return {setting.name: value for setting in BUILT if (value := _accepted(setting, stored)) is not None}


def recall_runtime(folder: Path) -> dict[str, Value]:
    """The settings of [runtime] in the sealed manifest of an image, also under its signature; none if it is damaged."""
    try:
        with open_input(folder / MANIFEST_NAME, what="manifest") as file:
            manifest = read_manifest(file.read(_LIMIT_BYTES), origin=MANIFEST_NAME)
    except (OSError, InputError):
        return {}  # what is wrong with it is told where the image is checked
    values = _from_configuration(manifest.configuration)
    return {name: value for name, value in values.items() if name.startswith("runtime.")}


def remember(folder: Path, config: Config) -> None:
    """Keep the settings of a finished build for the next one. Raises InputError if the file cannot be written."""
    values = {setting.name: _text(setting, _value(config, setting)) for setting in BUILT}
    given = {setting.name: values[setting.name] for setting in BUILT if values[setting.name] != setting.default}
    data = json.dumps({"version": VERSION, "settings": given}, indent=1).encode() + b"\n"
    path = folder / NAME
    if not path.is_file() or path.read_bytes() != data:
        with atomic_write(path) as file:
            file.write(data)


def still_valid(remembered: Mapping[str, Value], given: Mapping[str, Value]) -> dict[str, Value]:
    """What of `remembered` still applies beside the values `given` now, and is not among them."""
    dropped = set(given)
    for leader in _LEADERS:
        if leader in given and _same_source(given[leader]) != _same_source(remembered.get(leader, _default(leader))):
            section = leader.partition(".")[0]
            dropped |= {name for name in remembered if name.startswith(f"{section}.")}
    return {name: value for name, value in remembered.items() if name not in dropped}


def lost_file(config: Config) -> str | None:
    """A sentence about the first file of remembered settings that is no longer there; None if none is missing."""
    for setting in BUILT:
        value = _value(config, setting)
        if setting.name in config.remembered and _is_path(setting, value) and not Path(str(value)).exists():
            folder = path_text(config.image.output)
            return f"the image in {folder} was built with {setting.flag} {_shown(value)}, which is not there"
    return None


def changes_image(config: Config) -> bool:
    """Whether files of the image are asked to be other than those of the last build: [runtime] is of a boot."""
    built = recall(config.image.output)
    return any(
        _text(setting, _value(config, setting)) != _text(setting, built.get(setting.name, setting.default))
        for setting in BUILT
        if setting.section != "runtime"
    )


def require_files(config: Config) -> None:
    """Raises InputError if a file of the remembered settings is no longer there."""
    lost = lost_file(config)
    if lost is not None:
        raise InputError(lost, remedy="give its new path, or forget the settings with `vboot build --defaults`")


def flags_of(config: Config, names: frozenset[str]) -> list[str]:
    """The settings named as the options that give them, for a person to read."""
    chosen = [setting for setting in BUILT if setting.name in names]
    return [f"{setting.flag} {_shown(_value(config, setting))}" for setting in chosen]


def _stored(path: Path) -> Mapping[str, Any] | None:
    """The settings in the file; None if there is no such file, or it is damaged."""
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_LIMIT_BYTES))
        settings = document["settings"] if document["version"] == VERSION else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return settings if isinstance(settings, dict) else None


def _from_manifest(path: Path) -> dict[str, Value]:
    """What the manifest of an older build tells; of a path it has only the last part, which is looked for here."""
    try:
        with path.open("rb") as file:
            return _from_configuration(json.loads(file.read(_LIMIT_BYTES))["configuration"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _from_configuration(configuration: Any) -> dict[str, Value]:
    """The settings of a manifest's `configuration` that are not the defaults."""
    try:
        stored = {s.name: configuration[s.section].get(s.key) for s in BUILT if s.section in configuration}
    except (TypeError, AttributeError):
        return {}
    values = {setting.name: value for setting in BUILT if (value := _accepted(setting, stored)) is not None}
    return {name: value for name, value in values.items() if value != _default(name)}


def _accepted(setting: Setting, stored: Mapping[str, Any]) -> Value:
    if stored.get(setting.name) is None:
        return None
    try:
        return setting.from_toml(stored[setting.name], folder=Path())
    except InputError:
        return None


def _value(config: Config, setting: Setting) -> Value:
    value: Value = getattr(getattr(config, setting.section), setting.key)
    return value


def _text(setting: Setting, value: Value) -> Value:
    """A value as it is kept: paths absolute, as text."""
    return os.path.abspath(str(value)) if _is_path(setting, value) else value  # noqa: PTH100 -- keeps links


def _is_path(setting: Setting, value: Value) -> bool:
    if setting.kind == "name or path":
        return value not in setting.choices
    return setting.kind == "path" and value is not None


def _same_source(value: Value) -> Value:
    text = str(value)
    return text if text in _names() else os.path.abspath(text)  # noqa: PTH100


def _names() -> frozenset[str]:
    return frozenset(name for setting in BUILT if setting.name in _LEADERS for name in setting.choices)


def _default(name: str) -> Value:
    return next(setting.default for setting in SETTINGS if setting.name == name)


def _shown(value: Value) -> str:
    return path_text(Path(value)) if isinstance(value, str | Path) else str(value)
