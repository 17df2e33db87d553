"""`vboot demo`: boot a machine, change its weights, cut its power, restore them; with a line for each step."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cli.answer import Answer, human_bytes
from cli.boot import booted
from cli.embedding_answers import pairs
from cli.images import open_or_build
from cli.option_types import path
from cli.progress import reported
from cli.settings_flags import add_settings, read_build_config, read_config
from qemu.machine import VirtualMachine
from qemu.spec import Disk
from qemu.state_file import STATE_SERIAL, examined
from vboot.client.inference import cosine_similarities
from vboot.client.machine import MachineClient
from vboot.client.prediction import predict, verify
from vboot.errors import InputError
from vboot.protocol.errors import MachineError, RequestRefusedError
from vboot.protocol.messages import TensorInfo
from vboot.weights.edits import Dense, Edit, Seeded, pack

CONFIDENCE = 0.95
SEED = "0123456789abcdef"
EVERY_WEIGHT = "*.weight"
NOISE = 0.01
"""Small beside weights (about 0.05 in the real model), and large enough for similarities to move."""
SENTENCES = (
    "A cat sleeps on the warm sofa.",
    "A kitten is napping on the couch.",
    "The central bank raised interest rates.",
)
"""Two similar sentences and a different one."""
LEAST_WEIGHTS = 1024
"""Bytes; smaller tensors are biases and norms, which noise damages more."""
_FLOAT_TYPES = ("F16", "F32", "BF16", "Q8_0")
_RESTART_S = 30.0
_NO_NETWORK = 1018


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "--image",
        type=path,
        metavar="DIR",
        help="boot this image without building (default: build what has changed first)",
    )
    add_settings(parser, verb="demo")


def run(arguments: argparse.Namespace) -> Answer:
    """Boot, mutate, crash the worker, cut the power, boot again, roll back. Exit code 1 at the first surprise."""
    config = read_config(arguments)
    image = open_or_build(arguments.image, read_build_config(arguments))
    demo = _Demo()
    with tempfile.TemporaryDirectory(prefix="vboot-demo-") as folder:
        state = examined(Path(folder) / "state.img", size_mib=None)
        made = state.created(size_mib=None, model_bytes=image.need.weights_bytes)
        disk = Disk(made.path, STATE_SERIAL, read_only=False)
        for act in (demo.until_the_cut, demo.after_the_cut):
            started = time.monotonic()
            fault = "vector_boot.fault=1"
            with booted(image, config, append=fault, disks=(disk,), name="vboot demo") as (machine, client):
                demo.meet(machine, client, seconds_to_hello=time.monotonic() - started)
                act()
    return Answer(demo.facts, "")


class _Demo:
    """The steps on one machine, which is booted twice. `facts` collects the results for --json."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self._embedded: NDArray[np.float32] | None = None
        """Of the sentences, before anything was changed; None for a model without a network."""

    def meet(self, machine: VirtualMachine, client: MachineClient, *, seconds_to_hello: float) -> None:
        """Go on with the machine that was booted now."""
        # Under emulation on a busy host a single text may take longer than the client's own limit.
        client.timeout = max(client.timeout, 120)
        self._client = client
        self._machine = machine
        self._seconds_to_hello = seconds_to_hello
        self._weights = _weights(client.tensors())

    def until_the_cut(self) -> None:
        """Change the weights, crash the worker, then cut the power."""
        self._report_start()
        self._embed_first()
        self._mutate_dense()
        self._mutate_all()
        self._embed_changed()
        self._be_refused()
        self._kill_worker()
        self._cut_power()

    def after_the_cut(self) -> None:
        """Find everything as it was, roll back, power off."""
        self._find_again()
        self._roll_back()
        self._embed_restored()
        self._power_off()

    def _report_start(self) -> None:
        hello, tensors = self._client.greeted, self._client.tensors()
        size = human_bytes(sum(tensor.bytes for tensor in tensors))
        _say(
            "boot",
            f"answers after {self._seconds_to_hello:.1f} s under {self._machine.accel.name}; build {hello.build}",
        )
        _say("", f"{len(tensors)} tensors, {size}; generation {hello.generation}")
        self._first = self._digest("digest")

    def _embed_first(self) -> None:
        try:
            self._embedded = self._client.embed(SENTENCES).vectors
        except RequestRefusedError as refusal:
            if refusal.code != _NO_NETWORK:
                raise
            return  # a model of weights alone shows all the rest
        for number, sentence in enumerate(SENTENCES, start=1):
            _say("embed" if number == 1 else "", f"{number} {sentence}")
        self._report_similarities("before", self._embedded)

    def _embed_changed(self) -> None:
        if self._embedded is None:
            return
        vectors = self._client.embed(SENTENCES).vectors
        self._report_similarities("noisy", vectors)
        if vectors.tobytes() == self._embedded.tobytes():
            raise MachineError("the embeddings are those of before the noise", remedy="report this bug")
        _say("", f"the noise of {NOISE:g} on every weight is large enough to be seen")

    def _embed_restored(self) -> None:
        if self._embedded is None:
            return
        vectors = self._client.embed(SENTENCES).vectors
        self._report_similarities("restored", vectors)
        if vectors.tobytes() != self._embedded.tobytes():
            raise MachineError("the embeddings are not those of generation 0", remedy="report this bug")
        _say("", "the same embeddings as before, to the bit")

    def _report_similarities(self, name: str, vectors: NDArray[np.float32]) -> None:
        similarities = cosine_similarities(vectors)
        _say(name, f"cosine similarity {pairs(similarities)}")
        self.facts.setdefault("similarities", {})[name] = similarities.tolist()

    def _mutate_dense(self) -> None:
        target = self._weights[-1]
        size = min(target.bytes, 1024)
        old = np.frombuffer(self._client.read(target.name, size=size).data, np.uint8)
        self._mutate("dense", [Dense(target.name, 0, np.roll(old, 2 if target.type == "F16" else 4).tobytes())])

    def _mutate_all(self) -> None:
        # One pattern where every tensor that it means has a type for it: a hundred bytes for the whole model.
        meant = [tensor for tensor in self._client.tensors() if fnmatchcase(tensor.name, EVERY_WEIGHT)]
        one = {tensor.name for tensor in self._weights} <= {tensor.name for tensor in meant}
        one = one and all(tensor.type in _FLOAT_TYPES and not tensor.protected for tensor in meant)
        names = [EVERY_WEIGHT] if one else [tensor.name for tensor in self._weights]
        self._mutate("seeded", [Seeded(name, SEED, "normal", 1.0, NOISE) for name in names])

    def _mutate(self, name: str, edits: Sequence[Edit]) -> None:
        """Make the mutation, and compare what it did with what numpy says it must do."""
        with reported("predict") as progress:
            expected = predict(self._client, edits, confidence=CONFIDENCE, progress=progress)
        members, blob = pack(edits)
        started = time.monotonic()
        made = self._client.mutate(
            edits,
            confidence=CONFIDENCE,
            base_generation=expected.base_generation,
            origin="demo",
            wait=True,
            timeout=120,
        )
        seconds = time.monotonic() - started
        sent = len(json.dumps(members)) + len(blob)
        _say(
            name,
            f"{human_bytes(sent)} sent, {human_bytes(made.changed.bytes)} of {made.changed.tensors} tensors changed, "
            f"{seconds * 1000:.0f} ms: generation {made.generation}",
        )
        verify(self._client, made, expected)
        _say("", "every changed tensor has the SHA-256 that numpy computed beforehand")
        self.facts[name] = {"generation": made.generation, "seconds": seconds, "changed_bytes": made.changed.bytes}

    def _be_refused(self) -> None:
        weights = self._weights[0]
        nan = np.full(16, 0xFF, np.uint8).tobytes() if weights.type in ("F16", "F32", "BF16") else b"\xff" * 34
        generation = self._client.hello().generation
        noise = Seeded(weights.name, SEED, "normal", 1.0, NOISE)
        self._refuse("a kernel tensor", [Dense("kernel.0", 0, b"\1")], CONFIDENCE, generation)
        self._refuse("low confidence", [noise], 0.5, generation)
        self._refuse("not a number", [Dense(weights.name, 0, nan)], CONFIDENCE, generation)
        self._refuse("a stale generation", [noise], CONFIDENCE, 0)

    def _refuse(self, what: str, edits: Sequence[Edit], confidence: float, base: int) -> None:
        try:
            self._client.mutate(edits, confidence=confidence, base_generation=base, origin="demo")
        except RequestRefusedError as refusal:
            _say("refused", f"{what}: {refusal.code}, {refusal.message}")
            self.facts.setdefault("refused", {})[what] = refusal.code
            return
        raise MachineError(f"{what} was not refused", remedy="report this bug")

    def _kill_worker(self) -> None:
        before = self._digest(None)
        generation, restarts = self._client.hello().generation, self._client.stats().worker.restarts
        started = time.monotonic()
        self._client.fault("segv")
        while self._client.stats().worker.restarts == restarts:
            if time.monotonic() - started > _RESTART_S:
                raise MachineError("the worker was not started again", remedy="report this bug")
            time.sleep(0.01)
        seconds = time.monotonic() - started
        _say("killed", f"SIGSEGV in the worker; back after {seconds * 1000:.0f} ms, the heartbeat never stopped")
        self._expect_digest(before, f"generation {generation}")
        if self._client.hello().generation != generation:
            raise MachineError("the worker came back at another generation", remedy="report this bug")
        self.facts["restart_seconds"] = seconds

    def _cut_power(self) -> None:
        self._before_cut = (self._client.hello().generation, self._digest(None))
        self._machine.kill()
        _say("power cut", f"SIGKILL for QEMU at generation {self._before_cut[0]}; the state file stays")

    def _find_again(self) -> None:
        generation, digest = self._before_cut
        found = self._client.greeted.generation
        _say("boot", f"answers after {self._seconds_to_hello:.1f} s: generation {found}")
        self._expect_digest(digest, f"generation {generation}")
        if found != generation:
            raise MachineError("the machine came back at another generation", remedy="report this bug")
        self.facts["survived_generation"] = found

    def _roll_back(self) -> None:
        started = time.monotonic()
        back = self._client.rollback(0, reason="demo")
        seconds = time.monotonic() - started
        _say("rollback", f"to generation 0 in {seconds * 1000:.0f} ms: generation {back.generation}")
        self._expect_digest(self._first, "generation 0")
        self.facts["rollback_seconds"] = seconds

    def _power_off(self) -> None:
        late = self._client.stats().heartbeat_late_us
        _say("heartbeat", f"late by {late.p50 / 1000:.1f} ms half of the time, {late.max / 1000:.1f} ms at worst")
        self._client.shutdown()
        self._machine.wait_exit()
        _say("power off", "in order")
        self.facts["digest"] = self._first

    def _digest(self, name: str | None) -> str:
        digest = self._client.digest([]).model
        if name is not None:
            _say(name, f"{digest[:32]}... over all weights")
        return digest

    def _expect_digest(self, expected: str, of: str) -> None:
        found = self._digest("digest")
        if found != expected:
            raise MachineError(f"the weights are not those of {of}", remedy="report this bug")
        _say("", f"the same as {of}, to the bit")


def _weights(tensors: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
    """The matrices that noise can be added to, in the model's order."""
    found = tuple(
        tensor
        for tensor in tensors
        if tensor.type in _FLOAT_TYPES
        and not tensor.protected
        and len(tensor.shape) == 2
        and tensor.bytes >= LEAST_WEIGHTS
    )
    if not found:
        raise InputError("the model has no float matrices", remedy="show the demo with MODEL=minilm")
    return found


def _say(name: str, text: str) -> None:
    sys.stderr.write(f"{name:>10}  {text}\n")
    sys.stderr.flush()
