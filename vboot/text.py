"""Text and file names from outside: made fit for a terminal, for JSON and for a shell, and read back.

A file name is any bytes. Python holds bytes that are not UTF-8 as lone surrogates, which neither JSON nor a terminal
can take. Such a path is shown as a `file:` URI (RFC 8089), whose percent escapes are exact, and every option that
takes a path takes that form too.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

_URI = "file:///"
# A backslash always begins an escape sequence in JSON, so matching from left to right never starts inside one.
_JSON_ESCAPE = re.compile(r"\\ud[89ab]..\\ud[c-f]..|\\ud[89a-f]..|\\.")


def printable(text: str) -> str:
    """The text with every character that cannot be printed spelled out: "\\n", "\\x1b", and "\\xff" for a raw byte."""
    return text if text.isprintable() else "".join(char if char.isprintable() else _escape(char) for char in text)


def path_text(path: Path | str) -> str:
    """A path for people: as it is if all of it can be printed, else its absolute path as a `file:` URI."""
    text = _utf8(path)
    return text if text is not None and text.isprintable() else _uri(path)


def path_json(path: Path | str) -> str:
    """A path for JSON: as it is if it is UTF-8, else its absolute path as a `file:` URI."""
    text = _utf8(path)
    return _uri(path) if text is None else text


def parse_path(text: str) -> Path:
    """The path of `path_text`, `path_json` or a command line. Raises ValueError for a path with a zero byte."""
    data = unquote_to_bytes(text[len(_URI) - 1 :]) if text.startswith(_URI) else os.fsencode(text)
    if b"\0" in data:
        raise ValueError("a path cannot hold a zero byte")
    return Path(os.fsdecode(data))


def json_text(value: Any, *, indent: int | None = None) -> str:
    """JSON in ASCII that every reader takes: a Path becomes `path_json`, a raw byte in other text "\\xff"."""
    text = json.dumps(value, indent=indent, default=_json_default)
    return _JSON_ESCAPE.sub(_without_lone_surrogate, text) if "\\ud" in text else text


def shell_join(words: Sequence[str]) -> str:
    """A command line for a shell. Words that cannot be printed are quoted as $'...', which bash, zsh and ksh read."""
    return " ".join(shlex.quote(word) if word.isprintable() else _dollar_quoted(word) for word in words)


def _escape(char: str) -> str:
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


def _utf8(path: Path | str) -> str | None:
    try:
        return os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        return None


def _uri(path: Path | str) -> str:
    return "file://" + quote_from_bytes(os.fsencode(Path(path).absolute()))


def _json_default(value: object) -> str:
    return path_json(value) if isinstance(value, Path) else str(value)


def _without_lone_surrogate(match: re.Match[str]) -> str:
    escape = match[0]
    if len(escape) != 6:
        return escape
    code = int(escape[2:], 16)
    return f"\\\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else "\\ufffd"


def _dollar_quoted(word: str) -> str:
    escaped = "".join(_dollar_escape(byte) for byte in os.fsencode(word))
    return f"$'{escaped}'"


def _dollar_escape(byte: int) -> str:
    if byte in b"'\\":
        return "\\" + chr(byte)
    # Three octal digits end by themselves; a hexadecimal escape may swallow a digit that follows it.
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}"
