"""The process that holds the graphics adapter: `python -m evolution.fallback.wgsl_child DESCRIPTOR`.

Graphics drivers may crash or hang; in a process of their own they do not affect the parent. Requests and replies are
pickled `Job`s and `Done`s over the socket DESCRIPTOR. The process ends when the socket is closed.
"""

from __future__ import annotations

import importlib
import sys
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolution.fallback.wgsl_jobs import Done, Job

_FLOAT_BYTES = 4
_KEPT = 16
"""Number of compiled shaders that are cached."""


class Adapter:
    """A compute device and the shaders compiled for it."""

    def __init__(self) -> None:
        """Open the fastest adapter. Raises ImportError without wgpu, and what wgpu raises without an adapter."""
        # Imported here because wgpu is an optional dependency; it has no type hints.
        wgpu: Any = importlib.import_module("wgpu")

        adapter = wgpu.gpu.request_adapter_sync(power_preference="high-performance")
        self.name = adapter.summary
        self._refusals = (wgpu.GPUError, ValueError)
        self._usage = wgpu.BufferUsage
        self._device = adapter.request_device_sync()
        self._pipelines: dict[tuple[str, str], Any] = {}

    def do(self, job: Job) -> Done:
        """Compile the shader, and run it if the job has vectors."""
        try:
            pipeline = self._compiled(job.source, job.entry_point)
            return Done("done", results=None if job.vectors is None else self._run(pipeline, job.vectors))
        except self._refusals as error:
            return Done("refused", str(error))

    def _compiled(self, source: str, entry_point: str) -> Any:
        key = (source, entry_point)
        if key not in self._pipelines:
            shader = self._device.create_shader_module(code=source)
            stage = {"module": shader, "entry_point": entry_point}
            pipeline = self._device.create_compute_pipeline(layout="auto", compute=stage)
            while len(self._pipelines) >= _KEPT:
                self._pipelines.pop(next(iter(self._pipelines)))
            self._pipelines[key] = pipeline
        return self._pipelines[key]

    def _run(self, pipeline: Any, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        limits = self._device.limits
        row_bytes = vectors.shape[1] * _FLOAT_BYTES
        at_once = min(
            limits["max-compute-workgroups-per-dimension"], limits["max-storage-buffer-binding-size"] // row_bytes
        )
        parts = [self._dispatch(pipeline, vectors[at : at + at_once]) for at in range(0, len(vectors), at_once)]
        return np.concatenate(parts) if parts else np.empty_like(vectors)

    def _dispatch(self, pipeline: Any, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run one workgroup for each vector: f32 (n, dim) to f32 (n, dim)."""
        device, usage = self._device, self._usage
        inputs = device.create_buffer_with_data(data=np.ascontiguousarray(vectors, "<f4"), usage=usage.STORAGE)
        results = device.create_buffer(size=vectors.nbytes, usage=usage.STORAGE | usage.COPY_SRC)
        bound = [
            {"binding": number, "resource": {"buffer": buffer, "offset": 0, "size": vectors.nbytes}}
            for number, buffer in enumerate((inputs, results))
        ]
        group = device.create_bind_group(layout=pipeline.get_bind_group_layout(0), entries=bound)
        encoder = device.create_command_encoder()
        work = encoder.begin_compute_pass()
        work.set_pipeline(pipeline)
        work.set_bind_group(0, group)
        work.dispatch_workgroups(len(vectors))
        work.end()
        device.queue.submit([encoder.finish()])
        read = np.frombuffer(device.queue.read_buffer(results), "<f4").astype(np.float32).reshape(vectors.shape)
        inputs.destroy()
        results.destroy()
        return read


def serve(connection: Connection) -> None:
    """Send the name of the adapter, then run jobs until the other side closes the connection."""
    try:
        adapter = Adapter()
    except Exception as error:  # drivers raise errors of any type
        connection.send(Done("no adapter", f"{type(error).__name__}: {error}"))
        return
    connection.send(Done("done", adapter.name))
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(adapter.do(job))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
