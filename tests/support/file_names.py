"""File names that programs are known to mishandle."""

from __future__ import annotations

import os

ODD_NAMES = {
    "spaces": " two  words ",
    "quotes": "single ' double \" grave `",
    "commas": "a,b,,c",
    "equals": "file=path,id=x",
    "newline": "line\nbreak\n",
    "percent": "100%20%s%(name)s",
    "backslash": "back\\slash\\n",
    "shell": "$(exit 3);`id`|&*?[!a]~#",
    "not UTF-8": os.fsdecode(b"latin \xe9\xff\x80"),
    "control": "\x1b[31mred\x07\t",
    "long": "x" * 200,
    "URI": "file:%2f",
}
"""By what is odd about them."""

ODDEST_NAME = os.fsdecode(b"a b,c,,d='e\"\n%20\\n$(exit 3);\xff\x1b[1m") + "x" * 160
"""All of it in one name of 194 bytes."""
