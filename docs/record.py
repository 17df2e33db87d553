"""Records docs/boot.svg: `vboot boot` and a few commands, as they really went on a terminal.

Run it from the checkout: `.venv/bin/python docs/record.py`.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pexpect
from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
COLUMNS, LINES = 108, 60
COMMANDS = ("stats", "tensors blk.5.ffn", "interrupt 7", "digest token_embd.weight", "quit")
PROMPT = re.escape("> ")
BOOT_SECONDS = 180
BAR = "\u2501"


def session() -> str:
    """What a person sees who boots the image, types the commands and leaves."""
    seen = io.StringIO()
    command = [sys.executable, "-m", "builder", "boot", "--append", "vector_boot.fault=0"]
    child = pexpect.spawn(
        command[0],
        command[1:],
        cwd=str(HERE.parent),
        encoding="utf-8",
        dimensions=(LINES, COLUMNS),
        timeout=BOOT_SECONDS,
    )
    child.logfile_read = seen
    for line in COMMANDS:
        child.expect(PROMPT)
        child.sendline(line)
    child.expect(pexpect.EOF)
    child.close()
    if child.exitstatus != 0:
        raise SystemExit(f"the session failed:\n{seen.getvalue()}")
    return seen.getvalue()


def screen(raw: str) -> Text:
    """The lines as they stood in the end: carriage returns and erased lines applied, colours kept."""
    raw = re.sub(r"\x1b\[\?[0-9]+[hl]", "", raw).replace("\r\n", "\n")
    lines = [re.split(r"\r|\x1b\[2K", line)[-1] for line in raw.split("\n")]
    lines = [re.sub(r"\x1b\[[0-9]*[A-HJKSTfG]", "", line) for line in lines]
    # Half-drawn progress bars are gone from a terminal by now; the checkout's folder is nobody's business.
    kept = [line for line in lines if re.sub(r"\x1b\[[0-9;]*m", "", line).strip() and BAR not in line]
    return Text.from_ansi("\n".join(["$ make boot", *kept]).replace(f"{HERE.parent}/", ""))


def main() -> None:
    """Record, and write the picture beside this file."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(screen(session()), soft_wrap=False)
    console.save_svg(str(HERE / "boot.svg"), title="vector_boot")


if __name__ == "__main__":
    main()
