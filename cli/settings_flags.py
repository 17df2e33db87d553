"""The flags that override `appliance.toml`, made from the table of settings."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from builder.config import load_config
from builder.remembered import recall, recall_runtime
from builder.settings import SETTINGS, Config, Setting, Value
from vboot.errors import InputError


def add_settings(parser: argparse.ArgumentParser, *, verb: str) -> None:
    """Add a flag for every setting that the verb takes."""
    group = parser.add_argument_group("settings, which overrule appliance.toml")
    for setting in SETTINGS:
        if verb in setting.verbs:
            group.add_argument(
                setting.flag, dest=setting.name, type=_accept(setting), default=argparse.SUPPRESS,
                metavar=setting.metavar, help=_help(setting),
            )  # fmt: skip


def read_config(arguments: argparse.Namespace) -> Config:
    """Resolve the settings of a parsed command line, its environment, its appliance.toml, and the last build in the
    output folder. Of an image that --image names only the sealed manifest counts. Raises InputError.
    """
    return _resolved(arguments, without=())


def read_build_config(arguments: argparse.Namespace) -> Config:
    """As `read_config`, for the build before a boot: the options of [runtime] are of that boot alone."""
    return _resolved(arguments, without=("runtime",))


def _resolved(arguments: argparse.Namespace, *, without: tuple[str, ...]) -> Config:
    names = {setting.name for setting in SETTINGS if setting.section not in without}
    flags = {name: value for name, value in vars(arguments).items() if name in names}
    image: Path | None = getattr(arguments, "image", None)

    def recalled(output: Path) -> Mapping[str, Value]:
        if image is not None:
            return recall_runtime(image)
        return {} if getattr(arguments, "defaults", False) else recall(output)

    return load_config(flags=flags, environment=os.environ, file=arguments.config, recall=recalled)


def _accept(setting: Setting) -> Callable[[str], Value]:
    def accept(text: str) -> Value:
        try:
            return setting.from_text(text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return accept


def _help(setting: Setting) -> str:
    default = "" if setting.default in (None, "") else f", default {setting.default}"
    return f"{setting.help} ([{setting.section}] {setting.key}{default})".replace("%", "%%")
