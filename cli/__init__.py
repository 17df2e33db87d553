"""The command line `vboot`: find the verb, run it, print its answer or its error.

Exit codes: 0, 1 for a failure (one line on stderr), 2 for wrong usage, 128 and a signal's number when one ended it, 141
when the reader of the output has left. `vboot help exit-codes` prints them.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn

from cli import hints
from cli.answer import Answer
from cli.errors import HUNG_UP, TERMINATED, OutputError, Terminated, VerbStopped, described
from cli.option_types import path
from cli.streams import flush_out, safe_streams, warn, write_out
from vboot.text import json_text, printable

VERBS: Mapping[str, str] = {
    "build": "build the image: executable, model, container, manifest",
    "boot": "boot the image in QEMU and open a prompt on it",
    "demo": "boot the image, change its weights, roll them back",
    "shell": "open a prompt on a running machine",
    "embed": "turn texts into embeddings, and compare them",
    "mutate": "change the weights of a running machine",
    "rollback": "go back to an older generation of the weights",
    "promote": "make a generation of the weights permanent",
    "save": "write the weights of a running machine to a GGUF file",
    "apply": "bring a running machine to the weights of a GGUF file",
    "tensors": "list the tensors of a running machine",
    "history": "show the changes of a machine's weights",
    "evolve": "improve the weights of a running machine",
    "ps": "list the machines that run",
    "status": "show one machine: model, memory, generation, clients",
    "logs": "print the console of a machine",
    "reload": "replace the program of a running machine by another build",
    "update": "write the slot of a disk that does not run, and start it next",
    "stop": "shut down a running machine",
    "prune": "remove the run folders of machines that have ended",
    "compose": "make vectorland.gguf: a model plus the tensors of the machine",
    "inspect": "show the contents of an RTS or GGUF file",
    "verify": "check an RTS or GGUF file with both readers",
    "extract": "copy the executable or the tensors out of an RTS file",
    "repack": "copy an RTS file with one half replaced",
    "journal": "read the state device of a machine: show, verify, replay",
    "surgeon": "edit, merge and compare the weights in GGUF files",
    "bench": "run the benchmarks, with other programs for comparison",
    "completion": "print a script that completes the command line in a shell",
    "flash": "write a disk image to a disk, and read it back",
    "keygen": "make the keys that sign images and changes",
    "doctor": "check this host for what build, boot and tests need",
    "help": "explain a verb or a word, or print the manual page",
}
"""Every verb and its help. Each is the module `cli.VERB` with `configure(parser)` and `run(arguments)`."""

BROKEN_PIPE = 141

_WORDS = "`vboot help words` explains the words of this project."


class UsageError(Exception):
    """The command line is wrong. `usage` is the correct form."""

    def __init__(self, message: str, usage: str) -> None:
        super().__init__(message)
        self.usage = usage


class _Parser(argparse.ArgumentParser):
    """Raises UsageError instead of exiting, so that errors are printed in one place. Takes no abbreviations."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, self.format_usage())

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse ignores a stream that cannot be written to.
        if file is sys.stdout:
            write_out(message.removesuffix("\n"))
        else:
            sys.stderr.write(message)


class _Version(argparse.Action):
    """Prints the version, which takes a while to find: only where it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        from importlib.metadata import version

        write_out(f"vboot {version('vector-boot')}")
        parser.exit()


class _VerbParser(_Parser):
    """Reports unknown arguments with the usage of the verb; argparse would show that of the whole program."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # argparse ends a list of words at the first option after it.
        found, extras = super().parse_known_args(args, namespace)
        words = getattr(found, "words", None)
        if isinstance(words, list) and not any(word.startswith("-") for word in extras):
            return argparse.Namespace(**{**vars(found), "words": words + extras}), []
        if extras:
            self.error(f"unrecognized arguments: {' '.join(extras)}")
        return found, extras


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; `argv` is without the program's name (default: sys.argv). Returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    # Unlike the signal's own way to end a program, an exception lets us stop the programs we started.
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup leaves it
        signal.signal(signal.SIGHUP, _hang_up)
    with safe_streams():
        try:
            return _run(words)
        except OutputError as lost:
            if lost.reader_left:  # as in `| head`
                return BROKEN_PIPE
            _complain({"message": str(lost)}, as_json=False)
            return 1


def _run(words: Sequence[str]) -> int:
    as_json = "--json" in words
    hints.taken()  # those of an earlier command in this process that failed
    try:
        if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # set by `builder.__main__` until somebody catches it
            signal.signal(signal.SIGINT, signal.default_int_handler)
        answer = _answer(words)
        _tell(answer, as_json=as_json)
        return answer.exit_code
    except (KeyboardInterrupt, Terminated, VerbStopped) as stop:
        stopped = stop if isinstance(stop, VerbStopped) else VerbStopped(stop)
        _complain(stopped.error, as_json=as_json)
        return stopped.exit_code
    except SystemExit as finished:  # --help, --version
        flush_out()
        return int(finished.code or 0)
    except OutputError:
        raise
    except UsageError as error:
        sys.stderr.write(error.usage)
        _complain({"type": "UsageError", "message": str(error)}, as_json=as_json)
        return 2
    except Exception as error:
        if "--debug" in words:
            traceback.print_exc()
        _complain(described(error), as_json=as_json)
        return 1


def _tell(answer: Answer, *, as_json: bool) -> None:
    """Print an answer. Raises OutputError if it is lost and was all that the verb was for."""
    try:
        text = "\n".join(filter(None, [answer.text, *hints.taken()]))
        # A verb that has printed as it went has nothing left to say.
        if text or answer.data:
            write_out(json_text(answer.data, indent=2) if as_json else text)
        else:
            flush_out()
    except OutputError as lost:
        if answer.report_only:
            raise
        if not lost.reader_left:
            warn(f"the command has done its work, but {lost}")


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated(TERMINATED)


def _hang_up(_signal: int, _frame: FrameType | None) -> NoReturn:
    # The terminal has gone. A shell and the kernel may both say so: what ends in order now must not be interrupted.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise Terminated(HUNG_UP)


def _answer(words: Sequence[str]) -> Answer:
    arguments = _parser(words).parse_args(words)
    verb = importlib.import_module(f"cli.{arguments.verb}")
    answer: Answer = verb.run(arguments)
    return answer


def full_parser() -> argparse.ArgumentParser:
    """The parser with every verb configured, which takes a second of imports."""
    return _parser(tuple(VERBS))


def verb_parser(verb: str) -> argparse.ArgumentParser:
    """The parser of one verb."""
    parser: Any = _parser((verb,))
    (verbs,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    found: argparse.ArgumentParser = verbs.choices[verb]
    return found


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    about = "Builds a bootable machine from a GGUF model."
    parser = _Parser(prog="vboot", description=about, epilog=f"`vboot help VERB` describes a verb; {_WORDS}")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the program's version number and exit")
    add_global_options(parser, default=None)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_VerbParser)
    for name, text in VERBS.items():
        own = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        # Given before or after the verb; here the absence must not overrule what was given before.
        add_global_options(own, default=argparse.SUPPRESS)
        # Importing only the verb that was named keeps every command's start fast.
        if name in words:
            importlib.import_module(f"cli.{name}").configure(own)
            own.epilog = f"{own.epilog}\n\n{_WORDS}" if own.epilog else _WORDS
    return parser


def add_global_options(parser: argparse.ArgumentParser, *, default: Any) -> None:
    """Add what every verb takes; `default` is argparse.SUPPRESS where it may have been given before."""
    group = parser.add_argument_group("options of every verb")
    group.add_argument(
        "--config", type=path, metavar="FILE", default=default, help="settings (default: appliance.toml, if it is here)"
    )
    group.add_argument("--json", action="store_true", default=default, help="print one JSON object, also for errors")
    group.add_argument("--debug", action="store_true", default=default, help="show the traceback of an error")


def _complain(error: dict[str, Any], *, as_json: bool) -> None:
    # The last lines of a tool that failed explain more than we can; ours stays the last line.
    if error.get("stderr"):
        sys.stderr.write(error["stderr"].rstrip("\n") + "\n")
    message = printable(" ".join(error["message"].splitlines()))
    sys.stderr.write(f"vboot: error: {message}\n")
    sys.stderr.flush()
    if as_json:
        write_out(json_text({"error": error}, indent=2))
