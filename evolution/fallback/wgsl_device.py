"""Validates and executes WGSL shaders with wgpu on any adapter, also on a software one.

    with WgslRunner() as runner:
        runner.validate(source)
        results = runner.run(kernel, vectors)

wgpu is the optional extra `wgsl`. Debian's mesa-vulkan-drivers has a software adapter for every machine.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from evolution.fallback.wgsl_jobs import Done, Job
from evolution.kernels import to_wgsl
from evolution.kernels.genome import EvolvedKernel
from vboot.errors import InputError, ToolError

START_SECONDS = 30.0
"""Drivers may compile much code when they start."""
_CHECKOUT = Path(__file__).resolve().parents[2]
_COMMAND = [sys.executable, "-m", "evolution.fallback.wgsl_child"]
INSTALL = "install the extra `wgsl` and a driver such as Debian's mesa-vulkan-drivers"
_END_SECONDS = 2.0
_LAST_WORDS = 400
_PROBLEM = re.compile(r"error: (.+)")
_PLACE = re.compile(r"wgsl:(\d+):(\d+)")


class WgslRunner:
    """An adapter in a separate process, which is started again after a crash or hang. Not thread-safe.

    `timeout`: seconds that a call may take before its process is killed. Every method raises InputError without wgpu
    or adapter, ToolError if the process crashed or hung.
    """

    def __init__(self, *, timeout: float = 30.0) -> None:
        self.timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._said = -1
        self._adapter = ""

    @property
    def adapter(self) -> str:
        """The name of the adapter."""
        self._running()
        return self._adapter

    @property
    def pid(self) -> int | None:
        """The id of the adapter's process; None if none runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def validate(self, source: str, *, entry_point: str = to_wgsl.ENTRY_POINT) -> None:
        """Compile the shader for the adapter. Raises InputError, with line and column, if it is refused."""
        self._ask(Job(source, entry_point, None))

    def run(self, kernel: EvolvedKernel, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Apply the kernel to every row: f32 (n, dim) to f32 (n, dim), within `to_wgsl.TOLERANCE` of the reference.

        Raises InputError as `evolution.kernels.reference.run`.
        """
        if vectors.ndim != 2 or vectors.shape[1] != kernel.dim:
            what = f"expected f32 vectors of {kernel.dim} elements, got an array of shape {vectors.shape}"
            raise InputError(what, remedy="give one vector a row")
        return self.run_source(to_wgsl.source(kernel), vectors)

    def run_source(
        self, source: str, vectors: NDArray[np.float32], *, entry_point: str = to_wgsl.ENTRY_POINT
    ) -> NDArray[np.float32]:
        """Run a shader with the bindings of `to_wgsl` on vectors f32 (n, dim), for whose `dim` it was made.

        Raises InputError if the adapter refuses the shader or a result is not finite.
        """
        results = self._ask(Job(source, entry_point, vectors.astype(np.float32, copy=False))).results
        assert results is not None, "the job had vectors"
        finite = np.isfinite(results).all(axis=1)
        if not finite.all():
            raise InputError(f"the shader's result of row {int(np.argmin(finite))} is not finite")
        return results

    def close(self) -> None:
        """End the process. The next call starts another one. Closing twice does nothing."""
        if self._process is None or self._connection is None:
            return
        self._connection.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._said)
        self._process = self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, job: Job) -> Done:
        connection = self._running()
        _limit(connection, self.timeout)
        try:
            connection.send(job)
        except OSError as error:
            raise self._lost("running a shader", crashed=not isinstance(error, BlockingIOError)) from error
        done = self._answer(connection, self.timeout, "running a shader")
        if done.outcome == "refused":
            raise InputError(f"the adapter refuses the shader: {_sentence(done.text)}")
        return done

    def _running(self) -> Connection:
        """The connection to the process, which is started if none runs."""
        if self._connection is not None and self._process is not None and self._process.poll() is None:
            return self._connection
        self.close()
        ours, theirs = socket.socketpair()
        self._said = os.memfd_create("wgsl stderr", os.MFD_CLOEXEC)
        with theirs:
            self._process = subprocess.Popen(
                [*_COMMAND, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                env={**os.environ, "PYTHONPATH": str(_CHECKOUT)},
                start_new_session=True,  # so that Ctrl-C reaches only the parent
            )
        self._connection = Connection(ours.detach())
        _limit(self._connection, START_SECONDS)
        greeting = self._answer(self._connection, START_SECONDS, "starting the graphics adapter")
        if greeting.outcome != "done":
            self.close()
            raise InputError(f"there is no adapter for WGSL ({_sentence(greeting.text)})", remedy=INSTALL)
        self._adapter = greeting.text
        return self._connection

    def _answer(self, connection: Connection, seconds: float, phase: str) -> Done:
        try:
            if connection.poll(seconds):
                done: Done = connection.recv()
                return done
        except (EOFError, OSError) as error:
            raise self._lost(phase, crashed=not isinstance(error, BlockingIOError)) from error
        raise self._lost(phase, crashed=False)

    def _lost(self, phase: str, *, crashed: bool) -> ToolError:
        """Kill the process; the error has the end of its stderr."""
        assert self._process is not None, "there was an answer to wait for"
        self._process.kill()
        code = self._process.wait()
        said = os.pread(self._said, os.fstat(self._said).st_size, 0).decode(errors="replace").strip()[-_LAST_WORDS:]
        self.close()
        how = "crashed" if crashed else "hung"
        remedy = "try again: the next call starts another process"
        return ToolError(
            f"the process of the graphics adapter {how} while {phase}",
            command=_COMMAND,
            returncode=code,
            stderr=said,
            remedy=remedy,
        )


def _limit(connection: Connection, seconds: float) -> None:
    """Set the time after which a blocked read or write on the connection raises BlockingIOError."""
    whole, part = divmod(seconds, 1)
    duration = struct.pack("ll", int(whole), int(part * 1_000_000))
    with socket.socket(fileno=os.dup(connection.fileno())) as same:
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            same.setsockopt(socket.SOL_SOCKET, option, duration)


def _sentence(text: str) -> str:
    """The error and its position, from a long message of wgpu."""
    problem = _PROBLEM.search(text)
    what = problem[1] if problem else " ".join(text.split())
    place = _PLACE.search(text)
    return f"{what.rstrip('.')} at line {place[1]}, column {place[2]}" if place else what.rstrip(".")
