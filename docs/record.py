"""Records docs/boot.svg (`make boot` and a few commands) and docs/demo.svg (`make demo`) as they really went.

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
COLUMNS, LINES = 112, 60
COMMANDS = (
    "stats",
    "tensors blk.5.ffn",
    'similarity "a cat on a mat" "a kitten on a rug"',
    "digest token_embd.weight",
    "quit",
)
PROMPT = re.escape("> ")
SESSION_SECONDS = 300
BAR = "\u2501"


def session(verb: str, *options: str, lines: tuple[str, ...] = ()) -> str:
    """What a person sees who runs `vboot VERB` and types these lines, one at each prompt."""
    seen = io.StringIO()
    child = pexpect.spawn(
        sys.executable,
        ["-m", "builder", verb, *options],
        cwd=str(HERE.parent),
        encoding="utf-8",
        dimensions=(LINES, COLUMNS),
        timeout=SESSION_SECONDS,
    )
    child.logfile_read = seen
    for line in lines:
        child.expect(PROMPT)
        child.sendline(line)
    child.expect(pexpect.EOF)
    child.close()
    if child.exitstatus != 0:
        raise SystemExit(f"the session failed:\n{seen.getvalue()}")
    return seen.getvalue()


def screen(raw: str, command: str) -> Text:
    """The lines as they stood in the end: carriage returns and erased lines applied, colours kept."""
    raw = re.sub(r"\x1b\[\?[0-9]+[hl]", "", raw).replace("\r\n", "\n")
    lines = [re.split(r"\r|\x1b\[2K", line)[-1] for line in raw.split("\n")]
    lines = [re.sub(r"\x1b\[[0-9]*[A-HJKSTfG]", "", line) for line in lines]
    # Half-drawn progress bars are gone from a terminal by now; the checkout's folder is nobody's business.
    kept = [line for line in lines if re.sub(r"\x1b\[[0-9;]*m", "", line).strip() and BAR not in line]
    return Text.from_ansi("\n".join([f"$ {command}", *kept]).replace(f"{HERE.parent}/", ""))


def record(name: str, raw: str) -> None:
    """Write one session as a picture beside this file."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(screen(raw, f"make {name}"), soft_wrap=False)
    console.save_svg(str(HERE / f"{name}.svg"), title="vector_boot")


def main() -> None:
    """Record both, from an image that is built already."""
    session("build")
    record("boot", session("boot", "--append", "vector_boot.fault=0", lines=COMMANDS))
    record("demo", session("demo"))


if __name__ == "__main__":
    main()
