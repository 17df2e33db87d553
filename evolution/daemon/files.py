"""Files that follow a run without a machine: a single GGUF file, or V6's files for a consumer that reloads them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from evolution.daemon.body import FileBody
from evolution.daemon.events import Alarm, Applied, DaemonEvent
from evolution.daemon.follower import Course
from evolution.daemon.weights_file import changes, write_plain_model
from evolution.fallback.v6 import EvolutionDaemonV6
from evolution.fallback.wgsl_device import WgslRunner
from evolution.kernels.genome import EvolvedKernel


class FileKeeper:
    """Keeps the file of a FileBody up to date with the run. Raises InputError, ToolError."""

    def __init__(self, body: FileBody, tell: Callable[[DaemonEvent], None]) -> None:
        self._body = body
        self._tell = tell
        self._holds: str | None = None
        self._has_warned = False

    def connect(self) -> bool:
        """Always connected."""
        return True

    def tick(self, course: Callable[[], Course]) -> None:
        """A file has no metabolism."""

    def follow(self, course: Course) -> None:
        """Write the weights at the end of the course as a plain model, unless they were written before."""
        output = self._body.output
        if not course.moves or (self._holds == course.reference.model and output.exists()):
            return
        started = time.monotonic()
        report, kernels = write_plain_model(self._body.model, course.reference, output)
        self._holds = course.reference.model
        if kernels and not self._has_warned:
            self._has_warned = True
            self._tell(Alarm("file", f"{output} is a plain model, so it does not hold the evolved kernels of the run"))
        milliseconds = (time.monotonic() - started) * 1000
        move = course.step(course.moves)
        self._tell(Applied(move.id, course.moves, report.model, milliseconds, report.changed_bytes))

    def finish(self, course: Course) -> None:
        """A file never refuses."""

    def stats(self) -> None:
        """A file has no counts."""

    def close(self) -> None:
        """Nothing to release."""


class FallbackFiles:
    """The fallback while no machine answers: EvolutionDaemonV6 publishes the model and the kernel as files."""

    def __init__(self, model: Path, folder: Path) -> None:
        self._model = model
        self._folder = folder
        self._holds: str | None = None
        self._kernel: EvolvedKernel | None = None

    @property
    def folder(self) -> str:
        """The folder of the files."""
        return str(self._folder)

    def publish(self, course: Course) -> None:
        """Publish the run's current weights and kernel unless they are published. Raises InputError, ToolError."""
        if self._holds == course.reference.model and self._kernel == course.kernel:
            return
        with WgslRunner() as runner:
            daemon = EvolutionDaemonV6(self._folder, model=self._model, runner=runner)
            published = daemon.current.model
            source = self._model if published is None else self._folder / published.file
            if edits := changes(source, course.reference):
                daemon.publish_model(edits)
            if course.kernel is not None and course.kernel != self._kernel:
                daemon.publish(course.kernel)
        self._holds, self._kernel = course.reference.model, course.kernel
