"""Bodies: what a run improves. A running machine behind a bridge or a socket, or a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from vboot.client.bridge import RustNeuralBridge
from vboot.client.machine import MachineClient, connect
from vboot.protocol.errors import LinkLostError, MachineTimeoutError

CLIENT = "evolution-v7"
_WEDGED_AFTER = 3
"""Connections in a row without an answer: whatever holds the machine, waiting does not help."""


class MachineBody(Protocol):
    """A running machine that can be connected to, again and again."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    def open(self, timeout: float) -> MachineClient:
        """A new connection.

        Raises LinkLostError, MachineTimeoutError, RequestRefusedError; InputError for what can never be connected to.
        """

    def close(self) -> None:
        """Give it up. Closing twice is fine."""


class BridgeBody:
    """A machine in a child process of this program, as long as it lasts: its weights are gone with `close`."""

    def __init__(self, model: Path, *, bridge: RustNeuralBridge | None = None) -> None:
        """`bridge` is one that has loaded the model already (None: one is made when it is opened)."""
        self._model = model
        self._bridge = bridge or RustNeuralBridge()
        self._is_loaded = bridge is not None

    @property
    def name(self) -> str:
        """The model in this process."""
        return f"{self._model.name} in process"

    @property
    def pid(self) -> int | None:
        """The process that holds the machine now, if one does."""
        return self._bridge.pid

    def open(self, timeout: float) -> MachineClient:
        """A new connection; the model is loaded for the first.

        A child that hangs is ended by it (BridgeTimeoutError).
        """
        if not self._is_loaded:
            self._bridge.initialize(self._model)
            self._is_loaded = True
        self._bridge.timeout = timeout
        self._bridge.get_stats()
        return self._bridge.client(timeout=timeout)

    def close(self) -> None:
        """End the child."""
        self._bridge.close()
        self._is_loaded = False


class SocketBody:
    """A machine behind a Unix socket: a virtio-serial port of QEMU's, or `vector_boot --listen`.

    `revive` starts the machine anew once nobody listens there any more, or nobody has answered for three connections
    in a row, and says where it listens then.
    """

    def __init__(self, path: Path, *, revive: Callable[[], Path] | None = None) -> None:
        self._path = path
        self._revive = revive
        self._silent = 0

    @property
    def name(self) -> str:
        """Where it listens."""
        return str(self._path)

    def open(self, timeout: float) -> MachineClient:
        """A new connection, to a revived machine if need be."""
        try:
            machine = connect(self._path, timeout=timeout, client=CLIENT)
        except LinkLostError:
            if self._revive is None:
                raise
        except MachineTimeoutError:
            self._silent += 1
            if self._revive is None or self._silent < _WEDGED_AFTER:
                raise
        else:
            self._silent = 0
            return machine
        self._silent = 0
        self._path = self._revive()
        return connect(self._path, timeout=timeout, client=CLIENT)

    def close(self) -> None:
        """Nothing is held between connections."""


@dataclass(frozen=True)
class FileBody:
    """No machine: each accepted move makes a new `output`, a GGUF file that is `model` with the run's moves."""

    model: Path
    output: Path

    @property
    def name(self) -> str:
        """The file."""
        return str(self.output)


Body: TypeAlias = MachineBody | FileBody
