"""A machine with a state file in tests: started, killed, started again, compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.evolution_port.expect import EvolutionPort, Reply
from tests.support.listening import PATIENCE, Listening, identity, listening, result

MIB = 1 << 20
TENSOR = "blk.0.attn_q.weight"


@dataclass(frozen=True)
class StateMachine:
    """What machines with one state file are started from."""

    executable: Path
    model: Path
    folder: Path
    file: Path

    @classmethod
    def fresh(cls, executable: Path, model: Path, folder: Path, *, mib: int = 64) -> StateMachine:
        """With a new state file, all zero."""
        file = folder / "state.img"
        with file.open("wb") as blank:
            blank.truncate(mib * MIB)
        return cls(executable, model, folder, file)

    @contextmanager
    def running(self, *options: str) -> Iterator[Listening]:
        """A machine that uses the file. It may be killed; the next one takes its place."""
        options = ("--state", str(self.file), "--energy", "off", "--heartbeat-ms", "20", *options)
        socket = self.folder / "socket"
        with listening(self.executable, self.model, self.folder, *options, replaces=identity(socket)) as machine:
            yield machine


@dataclass(frozen=True)
class Facts:
    """What has to be the same after a machine was killed and started again."""

    generation: int
    digest: str

    @classmethod
    def of(cls, port: EvolutionPort) -> Facts:
        answer = result(port, "digest")
        return cls(answer["generation"], answer["model"])


def change_id(number: int) -> str:
    """The id of a change in these tests."""
    return f"{number + 1:032x}"


def mutation(number: int, base: int, **more: Any) -> tuple[dict[str, Any], bytes]:
    """The parameters of change `number`, made for generation `base`, and its blob: one of 100 places gets new bytes."""
    blob = bytes([number // 100 % 200 + 1, 0x3C]) * 32
    edits = [{"kind": "dense", "tensor": TENSOR, "offset": 64 * (number % 100), "blob": [0, len(blob)]}]
    return {"id": change_id(number), "base_generation": base, "confidence": 0.9, "edits": edits, **more}, blob


def mutate(port: EvolutionPort, number: int, base: int, **more: Any) -> Reply:
    """Make change `number`."""
    params, blob = mutation(number, base, **more)
    return port.request("mutate", params, blob=blob, timeout=PATIENCE)


def mutated(port: EvolutionPort, number: int, base: int, **more: Any) -> dict[str, Any]:
    """The result of change `number`, which must be made."""
    reply = mutate(port, number, base, **more)
    assert reply.result is not None, reply.error
    return reply.result


def refusal(port: EvolutionPort, number: int = 99) -> dict[str, Any]:
    """The error of a change that the journal refuses."""
    error = mutate(port, number, result(port, "stats")["generation"]).error
    assert error is not None
    assert error["code"] == 1015, error
    return error
