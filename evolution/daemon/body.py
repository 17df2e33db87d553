"""Bodies: the live machine (behind a bridge or a socket) or the file whose weights a run improves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from vboot.client.bridge import RustNeuralBridge
from vboot.client.machine import MachineClient, connect
from vboot.client.signer import Signer
from vboot.protocol.errors import LinkLostError, MachineTimeoutError

CLIENT = "vboot evolve"
PATIENCE_S = 120.0
"""Time for a request to a machine that has answered: it may work for other clients first."""
_WEDGED_AFTER = 3
"""Connections in a row without an answer, after which the machine is revived."""


class MachineBody(Protocol):
    """A running machine that can be connected to, again and again."""

    @property
    def name(self) -> str:
        """The name in messages."""

    def open(self, timeout: float) -> MachineClient:
        """A new connection.

        Raises LinkLostError, MachineTimeoutError, RequestRefusedError; InputError for what can never be connected to.
        """

    def close(self) -> None:
        """Release the body. Closing twice is allowed."""


class BridgeBody:
    """A machine in a child process of this program; its weights are lost with `close`."""

    def __init__(self, model: Path, *, bridge: RustNeuralBridge | None = None, signer: Signer | None = None) -> None:
        """`bridge` has loaded the model already (None: one is made and loads it when it is opened). `signer`: see
        `vboot.client.machine.connect`.
        """
        self._model = model
        self._signer = signer
        self._bridge = bridge or RustNeuralBridge()
        self._is_loaded = bridge is not None

    @property
    def name(self) -> str:
        """The model's file name."""
        return f"{self._model.name} in process"

    @property
    def pid(self) -> int | None:
        """The id of the process that holds the machine, if one does."""
        return self._bridge.pid

    def open(self, timeout: float) -> MachineClient:
        """A new connection; the first call loads the model.

        A child that hangs is killed. Raises BridgeTimeoutError then.
        """
        if not self._is_loaded:
            self._bridge.initialize(self._model)
            self._is_loaded = True
        self._bridge.timeout = timeout
        self._bridge.get_stats()
        return self._bridge.client(timeout=timeout, signer=self._signer)

    def close(self) -> None:
        """End the child."""
        self._bridge.close()
        self._is_loaded = False


class SocketBody:
    """A machine behind a Unix socket: QEMU's virtio-serial port, or `vector_boot --listen`.

    `revive` starts the machine again when the socket has no listener, or after three connections in a row without an
    answer, and returns the new socket.
    """

    def __init__(self, path: Path, *, revive: Callable[[], Path] | None = None, signer: Signer | None = None) -> None:
        self._path = path
        self._signer = signer
        self._revive = revive
        self._silent = 0

    @property
    def name(self) -> str:
        """The socket's path."""
        return str(self._path)

    def open(self, timeout: float) -> MachineClient:
        """A new connection, to a revived machine if necessary. Each one in a row without an answer has more time."""
        allowed = timeout * 2**self._silent
        try:
            machine = connect(self._path, timeout=allowed, client=CLIENT, signer=self._signer)
        except LinkLostError:
            if self._revive is None:
                raise
        except MachineTimeoutError:
            self._silent += 1
            if self._revive is None or self._silent < _WEDGED_AFTER:
                raise
        else:
            self._silent = 0
            return _patient(machine)
        self._silent = 0
        self._path = self._revive()
        return _patient(connect(self._path, timeout=allowed, client=CLIENT, signer=self._signer))

    def close(self) -> None:
        """Nothing to release: no connection is kept here."""


def _patient(machine: MachineClient) -> MachineClient:
    machine.timeout = max(machine.timeout, PATIENCE_S)
    return machine


@dataclass(frozen=True)
class FileBody:
    """No machine: each accepted move writes `output` anew, a plain GGUF of `model` with the run's accepted moves."""

    model: Path
    output: Path

    @property
    def name(self) -> str:
        """The path of the output."""
        return str(self.output)


Body: TypeAlias = MachineBody | FileBody
