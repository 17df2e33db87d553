"""A consumer of published files: it polls `current.json`, and reloads the model and the kernel that it names.

with ReloadingConsumer(folder, bridge=RustNeuralBridge(), runner=WgslRunner()) as consumer:
    consumer.wait(generation=1, timeout=10)
    vectors = consumer.transform(consumer.embed(["a text"]))
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from evolution.fallback import current
from evolution.fallback.current import Current, PublishedKernel, PublishedModel
from evolution.fallback.wgsl_device import WgslRunner
from vboot.client.bridge import RustNeuralBridge
from vboot.client.machine import MachineClient
from vboot.errors import InputError
from vboot.protocol.errors import MachineTimeoutError

_LOOK_SECONDS = 0.005
_READ_AGAIN = 3
"""Attempts to load files while `current.json` changes, before a missing file is an error."""


class ReloadingConsumer:
    """Runs the model and the kernel published in `folder` on a bridge and an adapter, both closed with it."""

    def __init__(self, folder: Path, *, bridge: RustNeuralBridge, runner: WgslRunner) -> None:
        self._folder = folder
        self._bridge = bridge
        self._runner = runner
        self._seen: bytes | None = None
        self._current = current.NOTHING
        self._source = ""
        self._machine: MachineClient | None = None

    @property
    def current(self) -> Current:
        """The publication that is loaded."""
        return self._current

    @property
    def adapter(self) -> str:
        """The name of the adapter that runs the kernels."""
        return self._runner.adapter

    def poll(self) -> bool:
        """Load a new publication; returns whether there was one.

        Raises InputError for files that are missing or have another digest, and for files that bridge or adapter
        refuse. The loaded publication then stays, and the next call tries again.
        """
        for attempt in range(_READ_AGAIN):
            data = current.read(self._folder)
            if data is None or data == self._seen:
                return False
            try:
                self._load(current.parse(data))
            except FileNotFoundError as error:
                # A publication removes the files of the one before the last.
                if attempt == _READ_AGAIN - 1 or current.read(self._folder) == data:
                    what = f"{error.filename} is missing, which {current.NAME} names"
                    raise InputError(what, remedy="publish again") from error
                continue
            except OSError as error:
                what = f"cannot read {error.filename}, which {current.NAME} names: {error.strerror}"
                raise InputError(what, remedy="publish again") from error
            self._seen = data
            return True
        raise AssertionError("the last attempt returns or raises")

    def wait(self, *, generation: int, timeout: float) -> Current:
        """Poll until this generation or a later one is loaded. Raises MachineTimeoutError, and InputError as `poll`."""
        deadline = time.monotonic() + timeout
        while True:
            self.poll()
            if self._current.generation >= generation:
                return self._current
            if time.monotonic() >= deadline:
                what = f"generation {generation} was not published in {self._folder} within {timeout:g} s"
                raise MachineTimeoutError(what, remedy="check that the daemon runs")
            time.sleep(_LOOK_SECONDS)

    def transform(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Apply the published kernel to every row, f32 (n, dim). Raises InputError and as `WgslRunner.run_source`."""
        kernel = self._current.kernel
        if kernel is None:
            raise InputError(f"no kernel is published in {self._folder}", remedy="publish one")
        if vectors.ndim != 2 or vectors.shape[1] != kernel.dim:
            what = f"expected f32 vectors of {kernel.dim} elements, got an array of shape {vectors.shape}"
            raise InputError(what, remedy="give one vector a row")
        return self._runner.run_source(self._source, vectors, entry_point=kernel.entry_point)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The embeddings of the published model, f32 (n, dim). Raises InputError, and as `MachineClient.embed`."""
        if self._machine is None:
            raise InputError(f"no model is published in {self._folder}", remedy="publish one")
        return self._machine.embed(texts).vectors

    def close(self) -> None:
        """Close the bridge and the adapter. A second call does nothing."""
        if self._machine is not None:
            self._machine.close()
        self._machine = None
        self._bridge.close()
        self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load(self, new: Current) -> None:
        """Load both parts; replace the loaded ones only if both are accepted. Raises FileNotFoundError, InputError."""
        source = self._source
        if new.kernel is not None and new.kernel != self._current.kernel:
            source = self._kernel_source(new.kernel)
        if new.model is not None and new.model != self._current.model:
            self._load_model(new.model)
        self._source, self._current = source, new

    def _kernel_source(self, kernel: PublishedKernel) -> str:
        path = self._folder / kernel.file
        data = path.read_bytes()
        _require(hashlib.sha256(data).hexdigest(), kernel.sha256, path)
        try:
            source = data.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not a shader: it is not UTF-8", remedy="publish again") from error
        self._runner.validate(source, entry_point=kernel.entry_point)
        return source

    def _load_model(self, model: PublishedModel) -> None:
        path = self._folder / model.file
        with path.open("rb") as file:
            _require(hashlib.file_digest(file, "sha256").hexdigest(), model.sha256, path)
        self._bridge.initialize(path)
        last, self._machine = self._machine, self._bridge.client()
        if last is not None:
            last.close()


def _require(found: str, expected: str, path: Path) -> None:
    if found != expected:
        what = f"{path} is not the file that {current.NAME} names: expected SHA-256 {expected}, got {found}"
        raise InputError(what, remedy="publish again")
