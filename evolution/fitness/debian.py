"""Pairs from Debian's package lists: a package's short description is the query, its long one the document.

`parse` and `clean` are pure; `read_pairs` finds and reads the lists that apt keeps on this machine. Format: deb822
stanzas, as in Debian policy 5.1, with short and long description as in 5.6.13.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from evolution.fitness.contract import Pair
from vboot.errors import InputError, ToolError

SOURCE = "Debian package descriptions"
"""The source that a data set of these pairs states."""
APT_LISTS = Path("/var/lib/apt/lists")
DPKG_STATUS = Path("/var/lib/dpkg/status")
FEWEST_PAIRS = 256
"""A search on fewer pairs would overfit."""
SHORTEST_DOCUMENT = 80
"""Characters. Shorter long descriptions are those of transitional packages, or only name another package."""

_SAME_START = 120
"""Number of first characters that are compared: binary packages of one source differ only after them."""
_APT_HELPER = Path("/usr/lib/apt/apt-helper")
_READ_SECONDS = 120.0
_COMPRESSED = (".lz4", ".gz", ".xz", ".bz2", ".lzma", ".zst")
_LIST_NAME = re.compile(rf".*_(?:Translation-en|Packages)(?:{'|'.join(map(re.escape, _COMPRESSED))})?")
_PACKAGE = re.compile(r"^Package: (\S+)", re.MULTILINE)
_SOURCE_PACKAGE = re.compile(r"^Source: (\S+)", re.MULTILINE)
_DESCRIPTION = re.compile(r"^Description(?:-en)?: (.*)((?:\n[ \t].*)*)", re.MULTILINE)


class Description(NamedTuple):
    """The fields of a package's stanza; `source` and the texts are "" if absent."""

    package: str
    source: str
    short: str
    long: str


def parse(data: bytes) -> Iterator[Description]:
    """The packages of a list or a status file, in its order. Text that is not a stanza is ignored."""
    for stanza in data.decode("utf-8", "replace").split("\n\n"):
        package = _PACKAGE.search(stanza)
        if package is None:
            continue
        source = _SOURCE_PACKAGE.search(stanza)
        short, long = "", ""
        if (description := _DESCRIPTION.search(stanza)) is not None:
            short, long = _one_line(description[1]), _one_line(description[2])
        yield Description(package[1], source[1] if source else "", short, long)


def clean(descriptions: Iterable[Description]) -> tuple[Pair, ...]:
    """Pairs in which each query has one right document, in the order of package names.

    Of the packages with the same source package, query or beginning of the document, the first by name is kept.
    """
    known = sorted(set(descriptions))
    sources = {entry.package: entry.source for entry in known if entry.source}
    seen: set[tuple[str, str]] = set()
    pairs = []
    for package, _source, query, document in known:
        family = {
            ("source", sources.get(package, package)),
            ("query", query),
            ("document", document[:_SAME_START]),
        }
        usable = query and len(document) >= SHORTEST_DOCUMENT and _is_clean(query) and _is_clean(document)
        if usable and seen.isdisjoint(family):
            seen |= family
            pairs.append(Pair(query, document))
    return tuple(pairs)


def read_pairs(lists: Path = APT_LISTS, *, status: Path | None = DPKG_STATUS) -> tuple[Pair, ...]:
    """The pairs of the lists in a folder; if these are too few, those of the installed packages (`status`).

    With `status` None only the lists are read. Raises InputError if there are fewer than `FEWEST_PAIRS` or a file
    cannot be read, ToolError if apt's reader of compressed lists is missing or fails.
    """
    pairs = clean(entry for path in _list_files(lists) for entry in parse(_read(path)))
    if len(pairs) >= FEWEST_PAIRS:
        return pairs
    what = f"{lists} describes {len(pairs)} packages"
    if status is not None:
        installed = clean(parse(_read(status))) if status.is_file() else ()
        if len(installed) >= FEWEST_PAIRS:
            return installed
        what = f"{lists} and {status} describe {len(pairs)} and {len(installed)} packages"
    remedy = "fetch the descriptions with `apt-get -o Acquire::Languages=en update`, or give pairs of your own"
    raise InputError(f"{what}, expected at least {FEWEST_PAIRS}", remedy=remedy)


def _one_line(text: str) -> str:
    """The lines of a description as one line. A line with only a dot stands for an empty one."""
    return " ".join(word for line in text.split("\n") if line.strip() != "." for word in line.split())


def _is_clean(text: str) -> bool:
    return text.isprintable() and "\N{REPLACEMENT CHARACTER}" not in text


def _list_files(lists: Path) -> list[Path]:
    try:
        return sorted(path for path in lists.iterdir() if _LIST_NAME.fullmatch(path.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"cannot read {lists}: {error.strerror}", remedy="give a folder of apt's lists") from error


def _read(path: Path) -> bytes:
    """A file's bytes, uncompressed."""
    if path.suffix in _COMPRESSED:
        return _uncompressed(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", remedy="check its permissions") from error


def _uncompressed(path: Path) -> bytes:
    command = [str(_APT_HELPER), "cat-file", str(path)]
    try:
        completed = subprocess.run(command, capture_output=True, timeout=_READ_SECONDS, check=False)
    except OSError as error:
        what = f"cannot run {_APT_HELPER}: {error.strerror}"
        raise ToolError(what, command=command, remedy="install apt, or unpack its lists") from error
    except subprocess.TimeoutExpired as error:
        what = f"reading {path} took more than {_READ_SECONDS:.0f} s"
        raise ToolError(what, command=command, remedy="check the disk") from error
    if completed.returncode:
        stderr = completed.stderr.decode(errors="replace").strip()
        raise ToolError(
            f"{_APT_HELPER} cannot read {path}",
            command=command,
            returncode=completed.returncode,
            stderr=stderr,
            remedy="fetch the lists again with `apt-get update`",
        )
    return completed.stdout
