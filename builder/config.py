"""Reads `appliance.toml`, and resolves each setting from flag, environment, file and default."""

from __future__ import annotations

import codecs
import difflib
import os
import stat
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from builder.remembered import still_valid
from builder.settings import (
    SETTINGS,
    Config,
    DiskSettings,
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
LIMIT_BYTES = 1 << 20
"""More than any file of settings needs: a wrong path must not read a disk image into memory."""


Recall = Callable[[Path], Mapping[str, Value]]
"""Gives the settings that an output folder was built with."""


def _nothing(_folder: Path) -> Mapping[str, Value]:
    return {}


def load_config(
    *, flags: Mapping[str, Value], environment: Mapping[str, str], file: Path | None, recall: Recall = _nothing
) -> Config:
    """Resolve every setting: flag, then environment variable, then file, then what `recall` gives, then default.

    `flags` maps dotted names ("model.source") to accepted values. `file` None means `appliance.toml` in the working
    directory where there is one. `recall` is called with the output folder. Raises InputError for a file that cannot
    be read or has a wrong key or value, and for an environment variable with a wrong value, which it names.
    """
    defaults: dict[str, Value] = {setting.name: setting.default for setting in SETTINGS}
    in_file = _read(file or Path(FILE_NAME)) if file is not None or os.path.lexists(FILE_NAME) else {}
    from_environment = _environment(environment)
    given = {**in_file, **from_environment, **flags}
    remembered = still_valid(recall(Path(str({**defaults, **given}["image.output"]))), given)
    source = "model.source"
    return _config(
        {**defaults, **remembered, **given},
        source_origin=_variable(source) if source in from_environment and source not in flags else "",
        remembered=frozenset(remembered),
    )


def parse_toml(text: str, *, origin: str, folder: Path) -> dict[str, Value]:
    """Turn the text of an `appliance.toml` into accepted values by dotted name.

    `origin` is the file's name in errors; relative paths start at `folder`. Raises InputError that names the key, its
    value, its line and, for an unknown key, the most similar one that exists.
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


def _environment(environment: Mapping[str, str]) -> dict[str, Value]:
    values = {}
    for setting in SETTINGS:
        text = environment.get(setting.environment) if setting.environment else None
        if text is None:
            continue
        try:
            values[setting.name] = setting.from_text(text)
        except InputError as error:
            # `make image MODEL=` leaves an empty variable; to take it as not given would build another model.
            remedy = error.remedy or f"give {setting.metavar}, or leave it out"
            raise InputError(f"{_variable(setting.name)}: {error.what}", remedy=remedy) from error
    return values


def _variable(name: str) -> str:
    """How an error names the environment variable of the setting `name`."""
    variable = next(setting.environment or "" for setting in SETTINGS if setting.name == name)
    return f"environment variable {variable} ({variable.removeprefix('VBOOT_')}= of make)"


def _read(file: Path) -> dict[str, Value]:
    try:
        # Opening a FIFO would block; anything but a regular file is refused below.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InputError(f"{file} is not a regular file", remedy="name another with --config")
            data = stream.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}", remedy="name another with --config") from error
    if len(data) > LIMIT_BYTES:
        raise InputError(f"{file} is larger than {LIMIT_BYTES >> 20} MiB", remedy="name another with --config")
    try:
        # Editors on Windows write a byte-order mark.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        utf_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        where = "it begins with the byte-order mark of UTF-16" if utf_16 else f"byte {error.start} is wrong"
        raise InputError(f"{file} is not UTF-8: {where}", remedy="save it as UTF-8") from error
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
        # A correct key in the wrong section is a more likely mistake than a wrong key.
        nearest = [setting.name for setting in SETTINGS if setting.key == path[1]]
        nearest = nearest or difflib.get_close_matches(".".join(path), valid, n=1)
    remedy = f"did you mean {nearest[0]}?" if nearest else f"expected one of {', '.join(valid)}"
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


def _config(values: Mapping[str, Value], *, source_origin: str, remembered: frozenset[str]) -> Config:
    sections: dict[str, dict[str, Any]] = {}
    for setting in SETTINGS:
        sections.setdefault(setting.section, {})[setting.key] = values[setting.name]
    return Config(
        model=ModelSettings(**sections["model"], source_origin=source_origin),
        image=ImageSettings(**sections["image"]),
        disk=DiskSettings(**sections["disk"]),
        machine=MachineSettings(**sections["machine"]),
        kernel=KernelSettings(**sections["kernel"]),
        runtime=RuntimeSettings(**sections["runtime"]),
        remembered=remembered,
    )
