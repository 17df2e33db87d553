"""Checks that need a machine of their own: the limit of clients, energy, the end of the process."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress

from tests.conformance.acts import crash, generation, mutate, proposal, rollback, state
from tests.conformance.client import Client, DisconnectedError, connected, message
from tests.conformance.expected import dense, sparse
from tests.conformance.model import mutable

_SMALL = [{"kind": "seeded", "tensors": "v.F32", "seed": "00" * 8, "form": "normal", "density": 1, "scale": 1e-3}]


def check_sixteen_are_served_and_the_seventeenth_is_told(client: Client) -> None:
    with ExitStack() as others:
        served = [others.enter_context(connected(client.path, patience=client.patience)) for _ in range(15)]
        for each in (client, *served):
            assert each.result("stats")["state"] == "beating"
        with Client(client.path, patience=client.patience) as late:
            got = late.receive()
            assert (got.body["id"], got.code) == (None, 1017)
            assert got.data["retry_ms"] > 0
            assert got.data["clients"] == ["conformance"] * 16
            try:
                late.receive()
            except DisconnectedError:
                pass
            else:
                raise AssertionError("the seventeenth connection was not closed")
        served[3].close()
        with connected(client.path, patience=client.patience) as again:
            assert again.result("stats")["state"] == "beating"
    assert client.result("stats")["state"] == "beating"


def check_energy_is_spent_and_comes_back(client: Client) -> None:
    """Small mutations use more energy than is refilled; the refused one changes nothing and has `retry_ms`."""
    assert client.result("stats")["energy"] == 1000
    spent = time.monotonic()
    before = state(client)
    assert mutate(client, dense("big", 0, mutable()["big"].data[4 : 1 + (1 << 20) - 1])).code == 0
    assert 990 <= client.result("stats")["energy"] <= 1000  # refilled since, more or less
    current, refused = before[0] + 1, None
    while refused is None and time.monotonic() - spent < client.patience:
        requests = [proposal(client, _SMALL, base_generation=current + step) for step in range(64)]
        client.send(b"".join(message(step, "mutate", params) for step, params in enumerate(requests)))
        answers = [client.reply() for _ in requests]
        current += sum(answer.code == 0 for answer in answers)
        refused = next((pair for pair in zip(requests, answers, strict=True) if pair[1].code == 1009), None)
    assert refused is not None
    params, answer = refused
    assert generation(client) == current
    retry = answer.data["retry_ms"]
    assert 0 < retry <= 1000
    time.sleep(retry / 1000 + 0.1)
    assert client.ask("mutate", {**params, "base_generation": current}).code == 0
    rollback(client, before[0])
    assert state(client)[1] == before[1]


def check_what_changes_nothing_is_told_before_what_costs(client: Client) -> None:
    same = [{"kind": "seeded", "tensors": "v.F32", "seed": "00" * 8, "form": "normal", "density": 0, "scale": 1}]
    current, code = generation(client), 0
    until = time.monotonic() + client.patience
    while code != 1009 and time.monotonic() < until:
        requests = [proposal(client, _SMALL, base_generation=current + step) for step in range(64)]
        empty = proposal(client, same, base_generation=current)
        client.send(b"".join(message(step, "mutate", params) for step, params in enumerate(requests)))
        codes = [client.reply().code for _ in requests]
        current += codes.count(0)
        code = 1009 if 1009 in codes else 0
        empty["base_generation"] = current
    assert code == 1009
    client.send(message("nothing", "mutate", empty) + message("costly", "mutate", proposal(client, _SMALL)))
    assert client.reply().code == 1008
    client.reply()


def check_no_number_of_crashes_loses_the_state(client: Client) -> None:
    """Each worker serves and mutates before its crash, so the machine must not count it as unable to start."""
    for turn in range(7):
        assert mutate(client, sparse("w.F32", "set", [0], [turn + 0.5])).code == 0, f"behind crash {turn}"
        held = state(client)
        crash(client)
        assert state(client) == held, f"behind crash {turn + 1}"


def check_bye_ends_a_machine_that_was_told_to(client: Client) -> None:
    assert mutate(client, sparse("w.F32", "set", [0], [0.5])).code == 0
    assert client.result("shutdown") == {}
    client.send(b'{"jsonrpc": "2.0", "method": "bye"}\n')
    with suppress(DisconnectedError):
        while True:  # `receive` fails when its patience ends
            client.receive()
