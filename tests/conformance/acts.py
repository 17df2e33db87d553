"""Helpers of the checks: read the whole state, change it, assert that it is unchanged."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from tests.conformance.client import BLOB_LIMIT, Client, DisconnectedError, Message, new_id
from tests.conformance.expected import Edit, after, assemble
from tests.conformance.model import mutable
from tests.conformance.reference import model_digest


def generation(client: Client) -> int:
    """The current generation."""
    return int(client.result("stats")["generation"])


def read(client: Client, name: str, **more: Any) -> bytes:
    """All bytes of a tensor of the model, by `read` alone; `more` adds parameters."""
    size, data = len(mutable()[name].data), b""
    while len(data) < size:
        params = {"tensor": name, "offset": len(data), "bytes": min(size - len(data), BLOB_LIMIT), **more}
        got = client.ask("read", params)
        assert got.blob is not None, got.body
        data += got.blob
    return data


def contents(client: Client, **more: Any) -> dict[str, bytes]:
    """All unprotected tensors; `more` adds parameters to each `read`."""
    return {name: read(client, name, **more) for name in mutable()}


def digest(client: Client) -> str:
    """The machine's digest of its model."""
    return str(client.result("digest", tensors=[])["model"])


def state(client: Client) -> tuple[int, str]:
    """Generation and digest: what must not move when something is refused."""
    got = client.result("digest", tensors=[])
    return int(got["generation"]), str(got["model"])


@contextmanager
def unchanged(client: Client) -> Iterator[None]:
    """Asserts that the block changes neither generation nor digest. A change is rolled back before the failure."""
    before = state(client)
    try:
        yield
    finally:
        now = state(client)
        if now != before:
            rollback(client, before[0])
    assert now == before


def proposal(client: Client, members: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """The params of a `mutate` on the current generation under a fresh id; `more` adds and overrides."""
    plain = {"id": new_id(), "base_generation": generation(client), "confidence": 0.9, "origin": "conformance"}
    return {**plain, "edits": members, **more}


def mutate(client: Client, *edits: Edit, **more: Any) -> Message:
    """Propose the edits and wait for the answer."""
    members, blob = assemble(edits)
    return client.ask("mutate", proposal(client, members, **more), blob=blob)


def rollback(client: Client, to: int) -> int:
    """Return to a generation's contents; the new generation."""
    got = client.result("rollback", id=new_id(), to=to)
    assert (got["restored"], got["replayed"]) == (to, False)
    return int(got["generation"])


def promote(client: Client) -> None:
    """Keep the trial that is open."""
    current = generation(client)
    assert client.result("promote", id=new_id(), generation=current) == {"promoted": current, "durable": False}


def crash(client: Client, what: str = "segv") -> None:
    """Crash the worker and connect to the next one."""
    time.sleep(client.rest)
    pid = client.result("stats")["worker"]["pid"]
    with suppress(DisconnectedError, BrokenPipeError, ConnectionResetError):
        client.ask("fault", {"what": what})
    await_successor(client, pid)


def await_successor(client: Client, pid: int) -> None:
    """Connect again until another worker than `pid` answers."""
    until = time.monotonic() + client.patience
    while True:
        client.again()
        with suppress(DisconnectedError, BrokenPipeError, ConnectionResetError):
            client.resync()
            if client.result("stats")["worker"]["pid"] != pid:
                return
        assert time.monotonic() < until, f"worker {pid} was not replaced"
        time.sleep(0.01)


def differing(old: bytes, new: bytes) -> int:
    """How many bytes differ."""
    return sum(left != right for left, right in zip(old, new, strict=True)) if old != new else 0


def _same(held: Mapping[str, bytes], want: Mapping[str, bytes]) -> None:
    for name, data in want.items():
        if held[name] != data:
            place = next(at for at, pair in enumerate(zip(held[name], data, strict=True)) if pair[0] != pair[1])
            shown = held[name][place : place + 8].hex(), data[place : place + 8].hex()
            raise AssertionError(f"{name} from byte {place} is {shown[0]}, expected {shown[1]}")


def expect_change(client: Client, *edits: Edit, base: Mapping[str, bytes] | None = None) -> None:
    """Apply the edits, compare every byte of the model with our own arithmetic, and roll back to the bit."""
    before = state(client)
    old = {name: tensor.data for name, tensor in mutable().items()} if base is None else base
    assert before[1] == model_digest(old), "an earlier check left something behind"
    want = after(old, edits)
    changed = {name for name in want if want[name] != old[name]}
    got = mutate(client, *edits, digest=True).result
    _same({name: read(client, name) for name in changed}, {name: want[name] for name in changed})
    assert got["generation"] == before[0] + 1
    assert got["replayed"] is False
    size = sum(differing(old[name], want[name]) for name in changed)
    assert got["changed"] == {"tensors": len(changed), "bytes": size}
    assert got["sha256"] == {name: hashlib.sha256(want[name]).hexdigest() for name in changed}
    assert state(client) == (before[0] + 1, model_digest(want))
    restored = rollback(client, before[0])
    assert state(client) == (restored, before[1])


def expect_refusal(client: Client, code: int | set[int], *edits: Edit, **more: Any) -> Message:
    """The edits are refused with this code (or one of these), and nothing has changed."""
    with unchanged(client):
        got = mutate(client, *edits, **more)
        assert got.code in ({code} if isinstance(code, int) else code), got.body
    return got
