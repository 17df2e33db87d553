"""`appliance.toml`: reading it, and settling what flag, environment, file and default say about each setting."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.settings import (
    SETTINGS,
    Config,
    ImageSettings,
    KernelSettings,
    MachineSettings,
    ModelSettings,
    RuntimeSettings,
    Setting,
    Value,
    shown,
)
from vboot.errors import InputError

FILE_NAME = "appliance.toml"


def load_config(*, flags: Mapping[str, Value], environment: Mapping[str, str], file: Path | None) -> Config:
    """Resolve every setting: flag, then environment variable, then file, then default.

    `flags` maps dotted names ("model.source") to accepted values. `file` None means `appliance.toml` in the working
    directory where there is one. Raises InputError for an unreadable or wrong file.
    """
    values: dict[str, Value] = {setting.name: setting.default for setting in SETTINGS}
    if file is not None or Path(FILE_NAME).exists():
        values |= _read(file or Path(FILE_NAME))
    for setting in SETTINGS:
        # An empty variable is what `make image MODEL=` leaves: not given.
        if setting.environment and (text := environment.get(setting.environment)):
            values[setting.name] = setting.from_text(text)
    values |= flags
    return _config(values)


def parse_toml(text: str, *, origin: str, folder: Path) -> dict[str, Value]:
    """Turn the text of an `appliance.toml` into accepted values by dotted name.

    `origin` is the file's name in errors, `folder` where its relative paths start. Raises InputError that names the
    key, its value, its line and, for an unknown key, the nearest one that exists.
    """
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{origin} is not TOML: {error}", remedy="see https://toml.io for the syntax") from error
    known = {setting.name: setting for setting in SETTINGS}
    values: dict[str, Value] = {}
    for section, keys in document.items():
        if section not in {setting.section for setting in SETTINGS}:
            raise _unknown((section,), f"{_at(origin, text, (section,))}: [{section}]")
        if not isinstance(keys, dict):
            raise InputError(
                f"{_at(origin, text, (section,))}: {section} is a section, not a value", remedy=f"write [{section}]"
            )
        for key, value in keys.items():
            where = _at(origin, text, (section, key))
            setting = known.get(f"{section}.{key}")
            if setting is None:
                raise _unknown((section, key), f"{where}: {section}.{key} = {shown(value)}")
            values[setting.name] = _accept(setting, value, where=where, folder=folder)
    return values


def line_of(text: str, path: tuple[str, ...]) -> int | None:
    """The line, from 1, of the statement of the TOML `text` that first gives `path` a value; None if none does.

    tomllib gives no positions. A statement is the shortest run of lines that parses under the last table header, so
    quoted, dotted and inline keys and values over several lines are all found.
    """
    header = statement = ""
    start = 1
    for number, line in enumerate(text.split("\n"), start=1):
        statement += line + "\n"
        try:
            parsed = tomllib.loads(header + statement)
        except (ValueError, RecursionError):
            continue
        if _contains(parsed, path):
            return start
        if statement.lstrip().startswith("["):
            header = statement
        statement, start = "", number + 1
    return None


def _read(file: Path) -> dict[str, Value]:
    try:
        # newline="" keeps line ends as they are: TOML has rules for them.
        with file.open(encoding="utf-8", newline="") as stream:
            text = stream.read()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}", remedy="name another with --config") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 at byte {error.start}", remedy="save it as UTF-8") from error
    return parse_toml(text, origin=str(file), folder=file.parent)


def _accept(setting: Setting, value: object, *, where: str, folder: Path) -> Value:
    try:
        return setting.from_toml(value, folder=folder)
    except InputError as error:
        raise InputError(f"{where}: {error}", remedy=f"{setting.flag} {setting.metavar}: {setting.help}") from None


def _unknown(path: tuple[str, ...], where: str) -> InputError:
    if len(path) == 1:
        valid = [f"[{section}]" for section in dict.fromkeys(setting.section for setting in SETTINGS)]
        nearest = difflib.get_close_matches(f"[{path[0]}]", valid, n=1)
    else:
        valid = [setting.name for setting in SETTINGS]
        # A right key in a wrong section is a likelier mistake than a wrong key.
        nearest = [setting.name for setting in SETTINGS if setting.key == path[1]]
        nearest = nearest or difflib.get_close_matches(".".join(path), valid, n=1)
    remedy = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(valid)}"
    return InputError(f"{where} is not a {'section' if len(path) == 1 else 'setting'}", remedy=remedy)


def _at(origin: str, text: str, path: tuple[str, ...]) -> str:
    line = line_of(text, path)
    return f"{origin}:{line}" if line else origin


def _contains(document: object, path: tuple[str, ...]) -> bool:
    for part in path:
        if not isinstance(document, dict) or part not in document:
            return False
        document = document[part]
    return True


def _config(values: Mapping[str, Value]) -> Config:
    sections: dict[str, dict[str, Any]] = {}
    for setting in SETTINGS:
        sections.setdefault(setting.section, {})[setting.key] = values[setting.name]
    return Config(
        model=ModelSettings(**sections["model"]),
        image=ImageSettings(**sections["image"]),
        machine=MachineSettings(**sections["machine"]),
        kernel=KernelSettings(**sections["kernel"]),
        runtime=RuntimeSettings(**sections["runtime"]),
    )
