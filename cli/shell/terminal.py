"""Where the shell's lines come from: a terminal with editing, completion and history, or any other stdin."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TextIO

from vboot.errors import VbootError
from vboot.files import atomic_write

PROMPT = "vboot> "
_HISTORY_LINES = 1000
_LOOK_SECONDS = 0.5


def is_interactive() -> bool:
    """Whether a person sits at both ends."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def read_line(*, prompt: bool, look: Callable[[], None]) -> str | None:
    """The next line without its newline; None at the end of input (Ctrl-D).

    `look` is called twice a second meanwhile, in the main thread; what it raises ends the waiting.
    """
    with _looking(look):
        if prompt:
            try:
                return input(PROMPT)
            except EOFError:
                return None
        line = _next_line(sys.stdin)
    return line.removesuffix("\n") if line else None


def _next_line(stream: TextIO) -> str:
    """The next line of a script, in UTF-8 whatever the locale says; other bytes become lone surrogates."""
    buffer = getattr(stream, "buffer", None)
    return stream.readline() if buffer is None else buffer.readline().decode("utf-8", "surrogateescape")


@contextmanager
def editing(complete: Callable[[str], Sequence[str]]) -> Iterator[None]:
    """Line editing while the block runs: `complete` names what the text before the cursor may become, history is kept.

    History lives in the user's state folder; where that cannot be read or written there is none.
    """
    # Importing readline writes to some terminals, so it waits until there is one.
    import readline

    def completer(word: str, state: int) -> str | None:
        # What is raised in here is lost, and completing is only a help.
        with suppress(VbootError):
            found = complete(readline.get_line_buffer()[: readline.get_endidx()])
            return found[state] + ("" if len(found) > 1 else " ") if state < len(found) else None
        return None

    path = history_path()
    readline.clear_history()
    with suppress(OSError):
        readline.read_history_file(path)
    readline.set_completer(completer)
    readline.set_completer_delims(" \t")
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        readline.set_completer(None)
        last = readline.get_current_history_length()
        lines = [readline.get_history_item(number) for number in range(max(1, last - _HISTORY_LINES + 1), last + 1)]
        _save_history(path, lines)


@contextmanager
def own_interrupts() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Have Ctrl-C reach the prompt, and nothing but the prompt.

    Gives a context in which the first Ctrl-C raises KeyboardInterrupt; outside it, and after the first, there is none.
    """
    armed = False

    def on_interrupt(_signal: int, _frame: FrameType | None) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    @contextmanager
    def interruptible() -> Iterator[None]:
        nonlocal armed
        armed = True
        try:
            yield
        finally:
            armed = False

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        with _apart_from_make():
            yield interruptible
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _apart_from_make() -> Iterator[None]:
    """Be the terminal's foreground process group alone, if make started us.

    Ctrl-C goes to that whole group, and make, which would be in it, would end with an error when the prompt is left.
    """
    group = os.getpgrp()
    if "MAKELEVEL" not in os.environ or group == os.getpid():
        yield
        return
    # A process in the background may take the terminal only if it ignores this; nobody could resume us after Ctrl-Z.
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTTOU, signal.SIGTSTP)}
    terminal = sys.stdin.fileno()
    try:
        with suppress(OSError):
            os.setpgid(0, 0)
            os.tcsetpgrp(terminal, os.getpid())
        yield
    finally:
        with suppress(OSError):
            os.tcsetpgrp(terminal, group)
            os.setpgid(0, group)
        for number, handler in before.items():
            signal.signal(number, handler)


def history_path() -> Path:
    """The shell's history file."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "vector_boot" / "shell_history"


def _save_history(path: Path, lines: Sequence[str]) -> None:
    with suppress(OSError, VbootError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with atomic_write(path) as file:
            file.write("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))


@contextmanager
def _looking(look: Callable[[], None]) -> Iterator[None]:
    """Call `look` now and then: reading a line cannot wait for anything else by itself."""

    def on_alarm(_signal: int, _frame: FrameType | None) -> None:
        look()

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, _LOOK_SECONDS, _LOOK_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
