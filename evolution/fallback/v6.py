"""The evolution daemon of version 6, the fallback if no runtime answers: weights and kernels are written to files.

    daemon = EvolutionDaemonV6(folder, model=Path("vectorland.gguf"), runner=runner)
    daemon.publish(kernel)            # kernels/evolved_1.wgsl, kernels/evolved_1.json, current.json
    daemon.publish_model(edits)       # models/evolved_2.gguf, current.json

A consumer (`evolution.fallback.consumer`) reloads what `current.json` names whenever it changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from evolution.fallback import current
from evolution.fallback.current import Current, PublishedKernel, PublishedModel
from evolution.fallback.wgsl_device import WgslRunner
from evolution.kernels import genome, reference, to_wgsl
from evolution.kernels.genome import EvolvedKernel
from evolution.surgeon import GGUFSurgeon
from vboot.errors import InputError
from vboot.files import atomic_write
from vboot.weights import noise
from vboot.weights.edits import Edit

Surgeon: TypeAlias = Callable[[Path, Sequence[Edit], Path], str]
"""Called as (source, edits, target): writes the target atomically, and returns the SHA-256 (hex) of its bytes."""

_KERNELS, _MODELS = "kernels", "models"
_UNFINISHED = ".vboot-*.tmp"
"""Temporary files that `atomic_write` leaves if its process is killed. They can be as large as a model."""
_PROBES = 16
_PROBE_SEED = "70726f6265000000"


def operate(source: Path, edits: Sequence[Edit], target: Path) -> str:
    """The standard `Surgeon`. Raises as `GGUFSurgeon.apply`."""
    GGUFSurgeon(source).apply(edits, output=target)
    with target.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class EvolutionDaemonV6:
    """Publishes kernels and models in a folder. The number of the generation continues that of the folder.

    Only one daemon at a time may write to a folder. The files of the last two publications are kept; older ones, and
    unfinished files of a killed daemon, are removed.
    """

    version = "EvolutionDaemonV6 (WGSL)"

    def __init__(self, folder: Path, *, model: Path, runner: WgslRunner, surgeon: Surgeon = operate) -> None:
        """`model` is the file to which the first edits are applied. Raises InputError if the folder cannot be used."""
        self._folder = folder
        self._model = model
        self._surgeon = surgeon
        self._runner = runner
        try:
            for name in (_KERNELS, _MODELS):
                (folder / name).mkdir(parents=True, exist_ok=True)
                for path in (folder / name).glob(_UNFINISHED):
                    path.unlink()
        except OSError as error:
            what = f"cannot prepare folders in {folder}: {error.strerror}"
            raise InputError(what, remedy="choose a folder that can be written to") from error
        data = current.read(folder)
        self._current = current.NOTHING if data is None else current.parse(data)

    @property
    def current(self) -> Current:
        """The newest publication."""
        return self._current

    def publish(self, kernel: EvolvedKernel) -> Current:
        """Publish a kernel as WGSL, after its results on the adapter were compared with the reference.

        Raises InputError if the kernel or the shader is refused or the results differ, ToolError as `WgslRunner`.
        Nothing is published then.
        """
        source = to_wgsl.source(kernel)
        self._runner.validate(source)
        self._compare(kernel)
        generation = self._current.generation + 1
        data = source.encode()
        file = f"{_KERNELS}/evolved_{generation}.wgsl"
        published = PublishedKernel(file, hashlib.sha256(data).hexdigest(), generation, to_wgsl.ENTRY_POINT, kernel.dim)
        manifest = {**asdict(published), "kernel": genome.to_json(kernel)}
        self._write(file, data)
        self._write(f"{_KERNELS}/evolved_{generation}.json", (json.dumps(manifest) + "\n").encode())
        return self._publish(replace(self._current, generation=generation, kernel=published))

    def publish_model(self, edits: Sequence[Edit]) -> Current:
        """Publish the newest model with these edits. Raises what the surgeon raises."""
        last = self._current.model
        source = self._model if last is None else self._folder / last.file
        generation = self._current.generation + 1
        file = f"{_MODELS}/evolved_{generation}.gguf"
        digest = self._surgeon(source, edits, self._folder / file)
        published = PublishedModel(file, digest, generation)
        return self._publish(replace(self._current, generation=generation, model=published))

    def _compare(self, kernel: EvolvedKernel) -> None:
        probes = _probes(kernel.dim)
        expected = reference.run(kernel, probes)
        found = self._runner.run(kernel, probes)
        size = np.abs(expected).max(axis=1)
        worst = float((np.abs(found - expected).max(axis=1) / np.maximum(size, np.finfo(np.float32).tiny)).max())
        if worst > to_wgsl.TOLERANCE:
            what = f"the results of the shader on {self._runner.adapter} differ by {worst:.1e} of the largest element"
            raise InputError(
                what, remedy=f"use a kernel whose results rounding changes by at most {to_wgsl.TOLERANCE:.0e}"
            )

    def _write(self, file: str, data: bytes) -> None:
        with atomic_write(self._folder / file) as out:
            out.write(data)

    def _publish(self, new: Current) -> Current:
        """Write `current.json`, and remove the files that neither it nor the last one names."""
        self._write(current.NAME, current.dump(new))
        last, self._current = self._current, new
        named = {part.generation for one in (last, new) for part in (one.kernel, one.model) if part is not None}
        kept = {f"evolved_{generation}" for generation in named}
        for folder in (_KERNELS, _MODELS):
            for path in (self._folder / folder).glob("evolved_*"):
                if path.stem not in kept:
                    with suppress(OSError):  # it only takes space; the next publication tries again
                        path.unlink()
        return new


def _probes(dim: int) -> NDArray[np.float32]:
    """Fixed pseudo-random vectors f32 (16, dim), of length at most 1."""
    words = noise.words(noise.key(_PROBE_SEED, "probes"), 0, _PROBES * dim)
    vectors = noise.z(words).reshape(_PROBES, dim)
    lengths: NDArray[np.float32] = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True)).clip(1)
    return vectors / lengths
