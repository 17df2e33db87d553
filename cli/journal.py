"""`vboot journal`: reads the file of a state device, offline: what it holds, whether it is sound, the weights."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping
from pathlib import Path

from builder.plan import TENSORS_NAME
from builder.settings import DEFAULT_OUTPUT
from cli import add_global_options
from cli.answer import Answer, human_bytes
from cli.journal_answers import show_answer, verify_answer
from cli.option_types import count, path
from cli.progress import reported
from cli.rust_reader import rust_reader
from cli.streams import warn
from evolution.surgeon.machine_tensors import SLOTS, model_sha256
from image.rts import HEADER_SIZE, parse_header
from vboot.check import check_file
from vboot.errors import InputError
from vboot.files import atomic_write
from vboot.journal.device import Device
from vboot.journal.pages import PAGE, Model, Tensors
from vboot.journal.recovery import Fault, Log, Reason, recover
from vboot.journal.replay import ReplayError, Weights, newest, replay
from vboot.text import path_text

_EPILOG = """examples:
  vboot journal show state.img
  vboot journal verify state.img --image build/
  vboot journal replay state.img -o evolved.gguf
  vboot journal replay state.img --generation 3 --model build/vectorland.gguf -o third.gguf

STATE is the file that `vboot boot --state` or `vector_boot --listen --state` has used; end its machine first, or read
a copy of the file. `show` prints one line for each entry of the history. `verify` ends with code 1 and names the first
record that is not sound; with the model it computes the weights, and prints their digest, which the
machine tells too (`digest` in `vboot shell`). `replay` writes the weights of a generation that the machine kept."""
_COPIED = 1 << 22
_REMEDIES: Mapping[Reason, str] = {
    "too_small": "name a whole copy of the device",
    "foreign": "name the file of a state device",
    "newer": "use the version of vboot that the machine has",
    "other_model": "name the device of this model",
    "damaged": "restore a copy of the device, or boot the machine with a new one",
}
"""What to do about a device that cannot be read."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the operations and their options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    operations = parser.add_subparsers(dest="operation", metavar="OPERATION", required=True)
    for name, (text, _run) in _OPERATIONS.items():
        own = operations.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}. Nothing is written to it."
        )
        add_global_options(own, default=argparse.SUPPRESS)
        own.add_argument("state", type=path, metavar="STATE", help="the file of a state device, or a copy of one")
        if name != "show":
            _add_model(own, needed=name == "replay")
    replayed = operations.choices["replay"]
    replayed.add_argument("-o", type=path, dest="to", metavar="OUT", required=True, help="write this GGUF file")
    replayed.add_argument(
        "--generation", type=count, metavar="G", help="an older generation (default: the newest promoted one)"
    )
    replayed.add_argument("--force", action="store_true", help="replace OUT if it is there")


def _add_model(parser: argparse.ArgumentParser, *, needed: bool) -> None:
    default = f"default: --image {DEFAULT_OUTPUT}" if needed else "default: the weights are not computed"
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", type=path, metavar="FILE", help=f"the model of its machine, GGUF or RTS ({default})")
    which.add_argument("--image", type=path, metavar="DIR", help="the image of its machine")


def run(arguments: argparse.Namespace) -> Answer:
    """Do one operation."""
    with Device(arguments.state) as device:
        log = recover(device)
        return _OPERATIONS[arguments.operation][1](arguments, log)


def _show(arguments: argparse.Namespace, log: Log) -> Answer:
    if log.fault is not None and log.superblock is None:
        raise _refused(arguments.state, log.fault)
    return show_answer(arguments.state, log)


def _verify(arguments: argparse.Namespace, log: Log) -> Answer:
    if log.fault is not None:
        raise _refused(arguments.state, log.fault)
    if arguments.model is None and arguments.image is None:
        return verify_answer(arguments.state, log)
    model = _model(arguments, log)
    weights = _replayed(arguments.state, model, log, None)
    return verify_answer(arguments.state, log, model=_digest(model, weights))


def _replay(arguments: argparse.Namespace, log: Log) -> Answer:
    to: Path = arguments.to
    if to.exists() and not arguments.force:
        raise InputError(f"{path_text(to)} is there", remedy="name another file, or replace it with --force")
    _keep(to, arguments.state, "the state device itself")
    if log.fault is not None and (log.fault.reason != "too_small" or not log.entries):
        raise _refused(arguments.state, log.fault)
    if log.fault is not None:
        warn(f"{path_text(arguments.state)} was cut short ({log.fault.why}): the newest changes may be missing")
    model = _model(arguments, log)
    _keep(to, model.path, "the model that the device belongs to")
    generation = newest(log).promoted if arguments.generation is None else arguments.generation
    weights = _replayed(arguments.state, model, log, generation)
    if behind := _lost_slots(model, weights):
        warn(f"the evolved programs in {', '.join(behind)} are not in a plain model")
    _write(model, weights, to)
    digest = _digest(model, weights)
    data = {"state": arguments.state, "generation": generation, "output": to, "bytes": model.size, "model": digest}
    text = f"{path_text(to)}: the weights of generation {generation}, {human_bytes(model.size)}\nmodel {digest}"
    return Answer(data | {"lost_kernels": behind}, text)


def _keep(to: Path, source: Path, what: str) -> None:
    """Refuse to replace what the weights are computed from: without it they could not be computed again."""
    if to.exists() and to.samefile(source):
        raise InputError(
            f"{path_text(to)} is {what}, which --force does not replace either", remedy="name another file"
        )


def _model(arguments: argparse.Namespace, log: Log) -> Model:
    """The model of the machine. Raises InputError if it is not the one that the device belongs to."""
    file: Path | None = arguments.model
    if file is None:
        file = (DEFAULT_OUTPUT if arguments.image is None else arguments.image) / TENSORS_NAME
        if not file.is_file():
            what = f"{path_text(file.parent)} contains no {TENSORS_NAME}"
            raise InputError(what, remedy="name the machine's image with --image, or its model with --model")
    kind = check_file(rust_reader(file), file)["kind"]
    with file.open("rb") as opened:
        head = opened.read(HEADER_SIZE)
    if kind == "rts":
        header = parse_header(head, file_size=file.stat().st_size)
        model = Model(file, offset=header.tensor_offset, size=header.tensor_size)
    else:
        model = Model(file)
    if log.superblock is not None and (found := model.sha256()) != log.superblock.file:
        what = (
            f"{path_text(arguments.state)} is of a machine whose model file has the SHA-256 {log.superblock.file.hex()}"
        )
        what += f", and {path_text(file)} has {found.hex()}"
        raise InputError(what, remedy="name the machine's own image with --image, or its model with --model")
    return model


def _replayed(state: Path, model: Model, log: Log, generation: int | None) -> Weights:
    with reported("journal") as progress:
        try:
            return replay(model, log, wanted=generation, progress=progress)
        except ReplayError as error:
            head, place = error.entry.head, log.place(error.entry.offset)
            what = f"{path_text(state)}: offset {place}: entry {head.sequence} ({head.kind.name.lower()}): {error}"
            raise InputError(what, remedy=_REMEDIES["damaged"]) from error


def _refused(state: Path, fault: Fault) -> InputError:
    return InputError(f"{path_text(state)}: {fault}", remedy=_REMEDIES[fault.reason])


def _lost_slots(model: Model, weights: Weights) -> list[str]:
    """The machine's tensors that are not in the file, and are not empty."""
    behind = [name for name in sorted(SLOTS) if model.places[name][0] >= model.size]
    return [name for name in behind if any(model.read(weights.contents, *model.places[name]))]


def _write(model: Model, weights: Weights, to: Path) -> None:
    with atomic_write(to) as file:
        for start in range(0, model.size, _COPIED):
            file.write(model.data[start : start + _COPIED])
        for number, page in weights.contents.items():
            if number * PAGE < model.size:
                file.seek(number * PAGE)
                file.write(page)


def _digest(model: Model, weights: Weights) -> str:
    """The digest that a machine would give these weights."""
    tensors = Tensors(model, weights.contents)
    return model_sha256({name: hashlib.sha256(tensors[name].data).hexdigest() for name in tensors})


_OPERATIONS = {
    "show": ("show boots, entries, images and free space of a state device", _show),
    "verify": ("check every record of a state device, and with its model the weights of every generation", _verify),
    "replay": ("write the weights of a generation to a GGUF file", _replay),
}
