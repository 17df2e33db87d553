"""The shadow: a private machine in a child process, in which everything is tried before the body gets it.

It holds the parent's weights. A trial applies edits, evaluates, and rolls back exactly. When the child dies or hangs,
the current operation is repeated, so the result is the same as without the failure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from evolution.daemon.events import Recovered
from vboot.client.bridge import RustNeuralBridge
from vboot.client.machine import MachineClient
from vboot.client.signer import Signer
from vboot.errors import InputError
from vboot.protocol.errors import LinkLostError, MachineError, MachineTimeoutError, ProtocolError, RequestRefusedError
from vboot.protocol.messages import Digest, TensorInfo
from vboot.protocol.tables import Code
from vboot.weights.arithmetic import TensorData
from vboot.weights.edits import Edit

T = TypeVar("T")

_ORIGIN = "shadow"
_TRIES = 5
_BACKOFF_S = 0.5
_CALL_S = 600.0
"""Timeout of a call: long enough for hashing and embedding, and a hanging child is still noticed."""
_LOST = (LinkLostError, MachineTimeoutError, ProtocolError)
_TRANSIENT = frozenset(
    {
        Code.STALE_GENERATION,
        Code.NO_ENERGY,
        Code.DAMAGED_BLOB,
        Code.UNUSABLE_BLOB,
        Code.UNKNOWN_GENERATION,
        Code.JOURNAL_FAILED,
        Code.EMERGENCY,
        Code.BUSY,
    }
)
"""Refusals caused by the state of this child, such as 1017 for lack of memory: no decision may depend on them."""


@dataclass(frozen=True)
class Weights:
    """A way to reconstruct some weights: a model file, edits to apply to it in order, the digest of the result."""

    model: Path
    edits: Callable[[], Sequence[Sequence[Edit]]]
    digest: str | None


@dataclass(frozen=True)
class WeightsChange:
    """The effect of edits in the shadow: the touched tensors before, new bytes of the changed ones, the new digest."""

    before: dict[str, TensorData]
    after: dict[str, bytes]
    digest: str
    changed_bytes: int


class WeightsMismatchError(MachineError):
    """The weights reconstructed from files have another digest than recorded."""


class Shadow:
    """Holds the parent's weights. `ways` reconstruct them, the best first, when the child's memory is not trusted.

    `signer` signs changes of a model that takes signed ones only.
    """

    def __init__(
        self,
        ways: Callable[[], Sequence[Weights]],
        *,
        tell: Callable[[Recovered], None],
        signer: Signer | None = None,
    ) -> None:
        """Load the parent.

        Raises WeightsMismatchError, InputError, LinkLostError, MachineTimeoutError when no way works.
        """
        self._ways = ways
        self._tell = tell
        self._signer = signer
        self._bridge = RustNeuralBridge(energy=False, timeout=_CALL_S)
        self._machine: MachineClient | None = None
        self._generation = 0
        self._tried: tuple[int, str] | None = None
        self.digest = ""
        """The parent's digest (hex)."""
        self.terrain: tuple[TensorInfo, ...] = ()
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int | None:
        """The id of the child process."""
        return self._bridge.pid

    @property
    def machine(self) -> MachineClient:
        """The client, for requests that change nothing."""
        if self._machine is None:
            self._machine = self._bridge.client(timeout=_CALL_S, signer=self._signer)
        return self._machine

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings f32 (n, dim) by the current weights."""
        return self.machine.embed(texts).vectors

    def run(self, look: Callable[[], T]) -> T:
        """The result of `look` on the parent; repeated if the shadow died meanwhile."""
        return self._repeated(look)

    def try_out(self, edits: Sequence[Edit], look: Callable[[], T]) -> T:
        """The result of `look` on the parent with edits, which are rolled back afterwards.

        Raises RequestRefusedError when the runtime refuses the edits, and what `look` raises; the shadow is rolled back
        then too.
        """

        def tried() -> T:
            self._mutate(edits)
            found = look()
            self._return()
            return found

        return self._repeated(tried)

    def apply(self, edits: Sequence[Edit], touched: Sequence[TensorInfo], look: Callable[[WeightsChange], T]) -> T:
        """As `try_out`, but the edits stay until `keep` or `drop`; `look` gets their effect on `touched` tensors."""

        def applied() -> T:
            before = {info.name: self._read(info) for info in touched}
            self._mutate(edits)
            generation = self._generation_now()
            after = {name: self._bytes(name) for name in before}
            after = {name: data for name, data in after.items() if data != before[name].data}
            digest = self.machine.digest([]).model
            changed = sum(_differing(before[name].data, data) for name, data in after.items())
            found = look(WeightsChange(before, after, digest, changed))
            self._tried = (generation, digest)
            return found

        return self._repeated(applied)

    def keep(self) -> None:
        """Make the edits applied last part of the parent."""
        assert self._tried is not None, "applied before"
        (self._generation, self.digest), self._tried = self._tried, None

    def drop(self) -> None:
        """Roll back the edits applied last."""
        self._repeated(self._return)

    def digests(self, names: Sequence[str]) -> Digest:
        """The digests of the model and of some tensors by name (at most 256)."""
        return self._repeated(lambda: self.machine.digest(names))

    def read(self, name: str) -> bytes:
        """The current bytes of a tensor."""
        return self._bytes(name)

    def close(self) -> None:
        """End the child. Closing twice is fine."""
        if self._machine is not None:
            self._machine.close()
            self._machine = None
        self._bridge.close()

    def _mutate(self, edits: Sequence[Edit]) -> None:
        self.machine.mutate(edits, confidence=1.0, base_generation=self._generation, origin=_ORIGIN, timeout=_CALL_S)

    def _return(self) -> None:
        self._tried = None
        self._generation = self.machine.rollback(self._generation, reason="trial in a shadow").generation

    def _generation_now(self) -> int:
        return self.machine.hello().generation

    def _repeated(self, work: Callable[[], T]) -> T:
        """The result of `work` that ran in one child from start to end; repeated up to _TRIES times."""
        why: MachineError | None = None
        for attempt in range(_TRIES):
            if attempt:
                self._recover(attempt, trust=not isinstance(why, RequestRefusedError))
            pid = self._bridge.pid
            try:
                found = work()
                if pid is not None and self._bridge.pid == pid:
                    return found
            except _LOST as error:
                why = error
            except RequestRefusedError as refusal:
                if refusal.code not in _TRANSIENT:
                    self._put_back()
                    raise
                why = refusal
            except BaseException:
                self._put_back()
                raise
        raise LinkLostError(
            f"the shadow failed {_TRIES} times in a row{f': {why.what}' if why else ''}",
            remedy="check the free memory of this host, then start the same command again to resume the run",
        ) from why

    def _put_back(self) -> None:
        """Restore the parent's weights after `work` ended early."""
        try:
            if self._generation_now() != self._generation:
                self._return()
        except MachineError:
            self._machine = None

    def _recover(self, attempt: int, *, trust: bool) -> None:
        """Restore a child with the parent's weights: in its memory if the digest is right, otherwise from the files."""
        started = time.monotonic()
        time.sleep(_BACKOFF_S * 2 ** (attempt - 2) if attempt > 1 else 0.0)
        how = "nothing"
        try:
            if self._generation_now() != self._generation:
                self._return()
                how = "rollback"
            trusted = trust and self.machine.digest([]).model == self.digest
        except MachineError:
            trusted = False
        if not trusted:
            self._build()
            how = "synchronised"
        self._tell(Recovered("shadow", how, self._generation, time.monotonic() - started))

    def _build(self) -> None:
        """Load the parent's weights from files, by the first way that works."""
        ways = self._ways()
        for number, weights in enumerate(ways, 1):
            try:
                return self._load(weights)
            except (InputError, RequestRefusedError, WeightsMismatchError):
                if number == len(ways):
                    raise
        raise AssertionError("the loop returns or raises")

    def _load(self, weights: Weights) -> None:
        if self._machine is not None:
            self._machine.close()
            self._machine = None
        self._bridge.initialize(weights.model, timeout=_CALL_S)
        self._generation, self._tried = 0, None
        for edits in weights.edits():
            self._mutate(edits)
            self._generation = self._generation_now()
        found = self.machine.digest([]).model
        if weights.digest is not None and found != weights.digest:
            raise WeightsMismatchError(
                f"{weights.model} with the run's moves does not have the recorded digest {weights.digest:.12}",
                remedy="give the model that the run began with",
            )
        self.digest = found
        self.terrain = self.machine.tensors()

    def _read(self, info: TensorInfo) -> TensorData:
        return TensorData(info.name, info.type, info.shape, self._bytes(info.name))

    def _bytes(self, name: str) -> bytes:
        return self._bridge.tensor(name).tobytes()


def _differing(before: bytes, after: bytes) -> int:
    return int(np.count_nonzero(np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8)))
