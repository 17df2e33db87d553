"""Operations on the weights in a GGUF file. The new file is written beside its target, checked, then renamed.

    surgeon = GGUFSurgeon(Path("vectorland.gguf"))
    report = surgeon.apply([Seeded("blk.*.weight", "00c0ffee00c0ffee", "normal", 0.01, 1e-3)])     # a dry run
    report = surgeon.apply(edits, output=Path("evolved.gguf"))

Outside of the changed tensors the new file equals the old one, byte for byte.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from evolution.surgeon.crossover import Unit, crossover
from evolution.surgeon.difference import difference
from evolution.surgeon.export import NewContents, export
from evolution.surgeon.gguf_file import GGUFFile
from evolution.surgeon.machine_tensors import PROTECTED, SLOTS
from evolution.surgeon.merge import merge
from evolution.surgeon.operation import Change, Operation
from evolution.surgeon.relation import require_relatives
from evolution.surgeon.reports import ExportReport, FileDifference, SurgeryReport
from evolution.surgeon.requantise import requantise
from evolution.surgeon.rewrite import Progress, Sink, rewrite
from evolution.surgeon.runtime_check import FileCheck, runtime_check
from vboot.errors import InputError, VbootError
from vboot.files import atomic_write
from vboot.protocol.messages import TensorInfo
from vboot.weights.arithmetic import each_change
from vboot.weights.edits import Edit


class GGUFSurgeon:
    """Operations on one file as it was when it was opened. Open it again after an operation in place.

    Every operation is a dry run unless it gets `output`, a path other than those it reads, or `in_place`, which
    replaces the file that it reads. The target is replaced only after the runtime's parser has accepted the new file
    and its digest is the computed one; otherwise it stays as it was.

    All raise EditError if they would change nothing (1008) or a protected tensor (1002), or produce a value that is not
    finite (1005); InputError for unusable files and options; ToolError if the parser fails.
    """

    def __init__(
        self,
        path: Path,
        *,
        check: FileCheck = runtime_check,
        progress: Progress = lambda _phase, _done, _total: None,
    ) -> None:
        """Open a file that `check` accepts. Raises InputError, ToolError."""
        self._check = check
        self._progress = progress
        self._base = GGUFFile(path, check)

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self._base.path

    def tensors(self) -> dict[str, TensorInfo]:
        """All tensors by name, in the file's order."""
        return {
            name: TensorInfo(name, tensor.type, tensor.shape, len(tensor.data), name in PROTECTED)
            for name, tensor in self._base.tensors.items()
        }

    def tensor(self, name: str) -> TensorInfo:
        """One tensor. Raises InputError for an unknown name."""
        found = self.tensors().get(name)
        if found is None:
            raise InputError(f"{self.path} has no tensor {name!r}", remedy="see `vboot inspect` for its tensors")
        return found

    def sha256(self, name: str) -> str:
        """SHA-256 (hex) of a tensor's bytes, computed once."""
        return self._base.sha256(name)

    def digest(self) -> str:
        """The model's digest (hex), equal to that of a machine with this model."""
        return self._base.model_sha256()

    def apply(
        self,
        edits: Sequence[Edit],
        *,
        output: Path | None = None,
        in_place: bool = False,
        expected_model: str | None = None,
    ) -> SurgeryReport:
        """Apply the edits of a mutation. The result is that of a machine, bit for bit.

        Unlike a machine, it refuses to change a tensor in which values that are not finite would remain. Raises
        InputError if the digest of the result is not `expected_model` (hex).
        """
        return self._operate(self._edited(edits), output, in_place, expected_model=expected_model)

    def requantise(
        self, types: Mapping[str, str], *, output: Path | None = None, in_place: bool = False
    ) -> SurgeryReport:
        """Convert tensors, by name or pattern, to other types: F32, F16, BF16, Q8_0.

        A pattern matches matrices only. The file's metadata stays, also `general.file_type`.
        """
        return self._operate(requantise(self._base.tensors, types), output, in_place)

    def merge(
        self,
        others: Sequence[Path],
        *,
        weights: Sequence[float] | None = None,
        force: bool = False,
        output: Path | None = None,
        in_place: bool = False,
    ) -> SurgeryReport:
        """The weighted mean of this file and others, in the types of this one; by default with equal weights.

        The files must be related; with `force` their distance may be any. The machine's own tensors stay unchanged.
        """
        files = [self._base, *self._relatives(others)]
        distances = self._distances(files[1:], force)
        factors = [1 / len(files)] * len(files) if weights is None else weights
        changes = merge([file.tensors for file in files], factors)
        kept = self._kept(files[1:], PROTECTED | SLOTS)
        return self._operate(Operation(changes, kept=kept, distances=distances), output, in_place, others)

    def crossover(
        self,
        other: Path,
        *,
        seed: str,
        unit: Unit = "tensor",
        share: float = 0.5,
        force: bool = False,
        output: Path | None = None,
        in_place: bool = False,
    ) -> SurgeryReport:
        """This file with about a `share` of its tensors or rows from a related file; `seed` (16 hex) selects them."""
        files = self._relatives([other])
        distances = self._distances(files, force)
        changes = crossover(self._base.tensors, files[0].tensors, seed=seed, unit=unit, share=share)
        kept = self._kept(files, PROTECTED)
        return self._operate(Operation(changes, kept=kept, distances=distances), output, in_place, [other])

    def export(
        self, output: Path, contents: NewContents | None = None, *, expected_model: str | None = None
    ) -> ExportReport:
        """Write the plain model, without the tensors and keys of a machine, as other programs read it.

        `contents` gives new bytes for some tensors. A file that is a plain model is copied as it is, apart from these.
        Raises InputError if the digest of the result is not `expected_model` (hex).
        """
        _refuse_same(output, self.path)
        with atomic_write(output) as file:
            report = export(self._base, contents or {}, _writer(file), self._progress)
            _require_model(report.model, expected_model, output)
            file.flush()
            self._judge_written(Path(file.name), output, report.model)
        return replace(report, output=str(output))

    def diff(self, other: Path) -> FileDifference:
        """How another file differs from this one; any two files can be compared."""
        return difference(self._base, GGUFFile(other, self._check))

    def verify(self, revised: Path, edits: Sequence[Edit]) -> SurgeryReport:
        """Check that a file equals this one with these edits, byte for byte. Raises InputError if not."""
        found = GGUFFile(revised, self._check)

        def compare(offset: int, expected: memoryview) -> None:
            present = np.frombuffer(found.data, np.uint8)[offset : offset + len(expected)]
            unequal = np.flatnonzero(present != np.frombuffer(expected, np.uint8)[: len(present)])
            if len(unequal) or len(present) < len(expected):
                raise self._other_than_expected(found, offset + int(unequal[0] if len(unequal) else len(present)))

        report = rewrite(self._base, self._edited(edits), compare, self._progress)
        if len(found.data) != report.bytes:
            raise self._other_than_expected(found, report.bytes)
        return replace(report, output=str(revised))

    def _other_than_expected(self, found: GGUFFile, offset: int) -> InputError:
        infos = self._base.layout.tensors
        names = [info.name for info in infos if info.offset <= offset < info.offset + info.size]
        place = f"in tensor {names[0]!r}" if names else "outside of the tensors"
        what = f"{found.path} is not {self.path} with these edits: it differs {place}, first at byte {offset}"
        return InputError(what, remedy="see the differences with `vboot surgeon diff`")

    def _edited(self, edits: Sequence[Edit]) -> Operation:
        changed = each_change(edits, self._base.tensors, PROTECTED)
        return Operation(Change(name, np.frombuffer(data, np.uint8)) for name, data in changed)

    def _relatives(self, paths: Sequence[Path]) -> list[GGUFFile]:
        if not paths:
            raise InputError(f"expected another file to merge with {self.path}", remedy="name one")
        return [GGUFFile(path, self._check) for path in paths]

    def _distances(self, files: Sequence[GGUFFile], force: bool) -> dict[str, float | None]:
        return {str(file.path): require_relatives(self._base, file, force=force) for file in files}

    def _kept(self, files: Sequence[GGUFFile], names: frozenset[str]) -> tuple[str, ...]:
        """The tensors of `names` in which some file differs from this one."""
        ours = self._base.tensors
        differs = {
            name
            for file in files
            for name in names & ours.keys() & file.tensors.keys()
            if file.tensors[name] != ours[name]
        }
        return tuple(name for name in ours if name in differs)

    def _operate(
        self,
        operation: Operation,
        output: Path | None,
        in_place: bool,
        sources: Sequence[Path] = (),
        *,
        expected_model: str | None = None,
    ) -> SurgeryReport:
        if output is None and not in_place:
            report = rewrite(self._base, operation, None, self._progress)
            _require_model(report.model, expected_model, self.path)
            return report
        if output is not None and in_place:
            raise InputError(
                f"expected either an output or a change in place, got both ({output})", remedy="give one of them"
            )
        target = self.path if output is None else output
        for source in sources if in_place else (self.path, *sources):
            _refuse_same(target, source)
        with atomic_write(target) as file:
            if in_place:  # a model that others cannot read stays so
                os.fchmod(file.fileno(), stat.S_IMODE(self._base.status.st_mode))
            report = rewrite(self._base, operation, _writer(file), self._progress)
            _require_model(report.model, expected_model, target)
            file.flush()
            self._judge_written(Path(file.name), target, report.model)
            if in_place and self._base.is_replaced():
                raise InputError(f"{target} was changed by another process in the meantime", remedy="open it again")
        return replace(report, output=str(target))

    def _judge_written(self, temporary: Path, target: Path, model: str) -> None:
        """Check the new file before it is renamed to `target`; `model` is the digest (hex) that it must have."""
        self._progress("check", 0, 0)
        try:
            written = GGUFFile(temporary, self._check)
        except InputError as error:
            raise VbootError(f"the new file for {target} is refused: {error.what}", remedy="report this bug") from error
        if written.model_sha256() != model:
            what = f"the new file for {target} does not have the computed digest"
            raise VbootError(what, remedy="check the disk; nothing was changed")


def _writer(file: BinaryIO) -> Sink:
    def write(offset: int, part: memoryview) -> None:
        file.seek(offset)
        file.write(part)

    return write


def _require_model(found: str, expected: str | None, target: Path) -> None:
    if expected is not None and found != expected:
        what = f"{target} was not written: its model would have the digest {found}, expected {expected}"
        raise InputError(what, remedy="check that the edits and the file belong together")


def _refuse_same(target: Path, source: Path) -> None:
    try:
        same = target.samefile(source)
    except OSError:
        return
    if same:
        raise InputError(f"{target} is both input and output", remedy="name another output")
