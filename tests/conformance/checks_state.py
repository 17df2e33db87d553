"""Generations, digests and rollback to the bit, through crashes of the worker as well."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from itertools import pairwise

import numpy as np

from tests.conformance.acts import (
    await_successor,
    contents,
    crash,
    digest,
    expect_change,
    generation,
    mutate,
    proposal,
    read,
    rollback,
    state,
    unchanged,
)
from tests.conformance.client import Client, DisconnectedError, message, new_id
from tests.conformance.expected import Edit, after, assemble, dense, program, seeded, sparse
from tests.conformance.model import COLUMNS, QUANTISED, ROWS, mutable
from tests.conformance.reference import FLOATS, model_digest


def _random_edit(random: np.random.Generator) -> Edit:
    """A random edit that is valid for any contents."""
    seed = f"{int(random.integers(0, 2**63)):016x}"
    density = float(random.uniform(0.05, 1))
    match int(random.integers(0, 5)):
        case 0:
            return seeded(f"w.{random.choice(QUANTISED)}", "step", seed=seed, density=density)
        case 1:
            return seeded(f"w.{random.choice(QUANTISED)}", "scale", seed=seed, density=density, scale=0.02)
        case 2:
            return seeded(f"w.{random.choice((*FLOATS, 'Q8_0'))}", "normal", seed=seed, density=density, scale=0.01)
        case 3:
            indices = sorted(int(index) for index in random.choice(COLUMNS * ROWS, 9, replace=False))
            return sparse(f"w.{random.choice((*FLOATS, 'Q8_0'))}", "add", indices, list(random.normal(0, 1, 9)))
    return program(f"evolved.{int(random.integers(0, 8))}", random.bytes(900))


def _grown(client: Client, count: int) -> list[tuple[int, dict[str, bytes]]]:
    """Some random mutations; the contents we expect at each generation, the current one first."""
    random = np.random.default_rng(6)
    held = contents(client)
    known = [(generation(client), held)]
    for _ in range(count):
        edits = [_random_edit(random) for _ in range(int(random.integers(1, 5)))]
        held = after(held, edits)
        known.append((int(mutate(client, *edits).result["generation"]), held))
    return known


def check_the_digest_is_that_of_what_is_read(client: Client) -> None:
    held = contents(client)
    got = client.result("digest")
    assert got["model"] == model_digest(held)
    names = ["w.Q8_0", "v.I64", "evolved.3"]
    assert client.result("digest", tensors=names)["sha256"] == {
        name: hashlib.sha256(held[name]).hexdigest() for name in names
    }


def check_the_tensors_are_those_of_the_file(client: Client) -> None:
    rows = {row["name"]: row for row in client.result("tensors")["tensors"]}
    protected = {"hw.mmio", "cortex_journal", *(f"kernel.{slot}" for slot in range(8))}
    assert {name for name, row in rows.items() if row["protected"]} == protected
    assert set(rows) == protected | set(mutable())
    for name, tensor in mutable().items():
        row = rows[name]
        assert (row["type"], row["shape"], row["bytes"]) == (tensor.kind, list(tensor.shape), len(tensor.data))
    assert [row["name"] for row in client.result("tensors", prefix="blk.1")["tensors"]] == [
        "blk.1.ffn.weight", "blk.1.ffn.bias",
    ]  # fmt: skip


def check_a_random_walk_and_every_generation_of_it(client: Client) -> None:
    """Each step by our own arithmetic; then back to each kept generation in a mixed order, crashes in between."""
    known = _grown(client, 25)
    assert contents(client) == known[-1][1]
    assert all(right == left + 1 for (left, _), (right, _) in pairwise(known))
    order = np.random.default_rng(7).permutation(len(known))
    for turn, index in enumerate(order):
        to, held = known[index]
        now = rollback(client, to)
        assert state(client) == (now, model_digest(held)), f"generation {to} is another now"
        if turn % 9 == 4:
            crash(client)
            assert state(client) == (now, model_digest(held)), "a crash of the worker changed the model"
    rollback(client, known[0][0])
    assert contents(client) == known[0][1]


def check_a_rollback_of_a_rollback(client: Client) -> None:
    base, first = state(client), sparse("w.F16", "set", [0], [1.0])
    assert mutate(client, first).code == 0
    changed = state(client)
    back = rollback(client, base[0])
    again = rollback(client, changed[0])
    assert state(client) == (again, changed[1])
    assert state(client)[1] != base[1]
    last = rollback(client, back)
    assert state(client) == (last, base[1])
    assert last == base[0] + 4


def check_older_generations_are_read_without_a_change(client: Client) -> None:
    """By reads and digests in a mixed order, before and after a crash, while the machine goes on."""
    known = _grown(client, 12)
    now = state(client)
    for turn, index in enumerate(np.random.default_rng(8).permutation(len(known))):
        at, held = known[index]
        assert contents(client, generation=at) == held, f"generation {at} is read wrongly"
        assert client.result("read", tensor="w.F16", bytes=1, generation=at)["generation"] == at
        names = ["w.Q8_0", "w.F16", "evolved.3"]
        assert client.result("digest", tensors=names, generation=at) == {
            "generation": at,
            "model": model_digest(held),
            "sha256": {name: hashlib.sha256(held[name]).hexdigest() for name in names},
        }
        assert state(client) == now, "reading an older generation changed the weights"
        if turn == 5:
            crash(client)
        if turn == 7:  # a change does not disturb what is read of the past
            assert mutate(client, seeded("w.F32", "normal")).code == 0
            now = state(client)
    rollback(client, known[0][0])


def check_a_generation_that_cannot_be_read(client: Client) -> None:
    with unchanged(client):
        current = generation(client)
        for method, params in (("read", {"tensor": "w.F16", "bytes": 1}), ("digest", {"tensors": []})):
            assert client.ask(method, {**params, "generation": current}).result["generation"] == current
            assert client.ask(method, {**params, "generation": current + 1}).code == 1014
            for wrong in (-1, 0.5, "0"):
                assert client.ask(method, {**params, "generation": wrong}).code == -32602
        for params, code in (
            ({"tensor": "none", "bytes": 1}, 1001),
            ({"tensor": "w.F16", "bytes": 1 << 40}, 1012),
            ({"tensor": "w.F16", "bytes": 9, "offset": len(mutable()["w.F16"].data)}, 1003),
        ):
            assert client.ask("read", {**params, "generation": current + 1}).code == code


def check_there_is_no_such_generation(client: Client) -> None:
    with unchanged(client):
        current = generation(client)
        for to in (current + 1, 2**53 - 1):
            got = client.ask("rollback", {"id": new_id(), "to": to})
            assert got.code == 1014, to
        for wrong in (-1, 0.5, "0", None):
            assert client.ask("rollback", {"id": new_id(), "to": wrong}).code == -32602, wrong
        assert client.ask("rollback", {"id": "ff", "to": current}).code == -32602
        assert client.ask("promote", {"id": new_id(), "generation": current + 1}).code == 1014
        assert client.ask("promote", {"id": new_id(), "generation": -1}).code == -32602
        assert client.ask("renew", {"generation": current + 1, "lease_ms": 100}).code == 1014


def check_a_rollback_is_replayed(client: Client) -> None:
    base = state(client)
    assert mutate(client, sparse("w.F16", "set", [0], [1.0])).code == 0
    params = {"id": new_id(), "to": base[0], "reason": "a check"}
    first = client.ask("rollback", params).result
    assert first == {"generation": base[0] + 2, "restored": base[0], "durable": False, "replayed": False}
    assert client.ask("rollback", params).result == {**first, "replayed": True}
    crash(client)
    assert client.ask("rollback", params).result == {**first, "replayed": True}
    assert client.ask("rollback", {**params, "to": base[0] + 1}).code == 1020
    assert client.ask("rollback", {**params, "reason": "another"}).code == 1020
    assert state(client) == (base[0] + 2, base[1])


def check_every_way_to_die_keeps_the_state(client: Client) -> None:
    base = state(client)
    assert mutate(client, seeded("*.weight", "normal"), dense("v.I32", 0, bytes(8))).code == 0
    changed = state(client)
    for what in ("segv", "abort"):
        crash(client, what)
        assert state(client) == changed, what
    now = rollback(client, base[0])
    assert state(client) == (now, base[1])
    crash(client)
    assert state(client) == (now, base[1])


def check_a_crash_between_queued_mutations(client: Client) -> None:
    """A mutation sent before the crash is applied; one sent after it wholly or not at all."""
    base, held, pid = state(client), contents(client), client.result("stats")["worker"]["pid"]
    first, second = sparse("w.F32", "add", [1], [1.0]), sparse("w.Q8_0", "add", [40], [0.25])
    queue = []
    for step, edit in enumerate((first, second)):
        members, blob = assemble([edit])
        queue.append(message(step, "mutate", proposal(client, members, base_generation=base[0] + step), blob=blob))
    client.send(queue[0] + message("crash", "fault", {"what": "segv"}) + queue[1])
    assert client.reply().result["generation"] == base[0] + 1
    with suppress(DisconnectedError, ConnectionResetError):
        client.reply()  # to `fault`, if it comes: the connection must not be closed before the request is read
    await_successor(client, pid)
    one, two = after(held, [first]), after(held, [first, second])
    assert state(client) in ((base[0] + 1, model_digest(one)), (base[0] + 2, model_digest(two)))
    rollback(client, base[0])
    expect_change(client, seeded("w.Q8_0", "step"))
    assert digest(client) == base[1]


def check_a_shorter_program_replaces_a_longer(client: Client) -> None:
    """The slot holds its number of pixels; bytes after them are unspecified."""
    base = state(client)
    assert mutate(client, program("evolved.4", bytes(range(90)))).code == 0
    assert mutate(client, program("evolved.4", b"\x07\x08\x09")).code == 0
    assert read(client, "evolved.4")[:7] == b"\x01\0\0\0\x07\x08\x09"
    rollback(client, base[0])
    assert state(client)[1] == base[1]


def check_the_worker_lives_through_mutations_of_all_sizes(client: Client) -> None:
    """Allocating and freeing memory must need no system call that the worker is denied."""
    pid = client.result("stats")["worker"]["pid"]
    base = state(client)
    big = mutable()["big"].data
    for turn in range(20):
        edits = [sparse("w.F32", "set", range(0, 300, 2), [turn + 0.5] * 150) for _ in range(turn * 12)]
        assert mutate(client, *edits, dense("big", 0, big[4 * turn : 4 * turn + 20_000 * turn + 4])).code in (0, 1008)
        bad = [sparse("w.F32", "set", [at], [0.5]) for at in range(150)]
        assert mutate(client, *bad, dense("w.F32", 0, b"\x00\x00\xc0\x7f")).code == 1005
    assert client.result("stats")["worker"]["pid"] == pid
    rollback(client, base[0])
    assert state(client)[1] == base[1]
