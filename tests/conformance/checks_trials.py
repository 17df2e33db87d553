"""Leases, promotion, checkpoints, and their events."""

from __future__ import annotations

import time
from typing import Any

from tests.conformance.acts import crash, generation, mutate, promote, rollback, state, unchanged
from tests.conformance.client import Client, new_id
from tests.conformance.expected import Edit, sparse

_EDIT = sparse("w.F32", "set", [0], [0.5])
_LEASES_MS = (500, 2000, 8000, 32_000)
"""Leases that are tried one after the other: on a busy host a short one may end before the next request."""


def _other(value: float) -> Edit:
    return sparse("w.F16", "set", [1], [value])


def _promoted(client: Client) -> int:
    return int(client.result("hello", protocol=1, client="conformance")["promoted"])


def _until_generation(client: Client, wanted: int) -> None:
    """Wait until the generation is `wanted`."""
    until = time.monotonic() + client.patience
    while (current := generation(client)) != wanted:
        assert time.monotonic() < until, f"generation {current}, expected {wanted}"
        time.sleep(0.01)


def _expire(client: Client) -> None:
    """Let the lease of the open trial end soon. Trials are opened with long leases, so that none ends too early."""
    assert client.result("renew", generation=generation(client), lease_ms=1) == {}


def _clean_up(client: Client, base: tuple[int, str]) -> None:
    rollback(client, base[0])
    promote_if_open(client)
    assert state(client)[1] == base[1]


def promote_if_open(client: Client) -> None:
    """End a trial that a rollback joined."""
    if _promoted(client) != generation(client):
        promote(client)


def check_without_a_lease_it_is_promoted_at_once(client: Client) -> None:
    base = state(client)
    assert mutate(client, _EDIT).code == 0
    assert _promoted(client) == base[0] + 1
    _clean_up(client, base)


def check_a_lease_that_expires_returns_to_the_bit(client: Client) -> None:
    base = state(client)
    begun = time.monotonic()
    trial = mutate(client, _EDIT, lease_ms=400).result["generation"]
    _until_generation(client, trial + 1)
    assert time.monotonic() - begun >= 0.4
    assert state(client) == (trial + 1, base[1])
    assert _promoted(client) == trial + 1
    newest = _newest(client)
    assert (newest["kind"], newest["verdict"], newest["generation"]) == ("lease_expired", "applied", trial + 1)
    assert newest["restored"] == base[0]


def _newest(client: Client) -> dict[str, Any]:
    records: list[dict[str, Any]] = []
    start = 0
    while True:
        got = client.result("history", **{"from": start, "limit": 100})
        records = got["records"] or records
        if got["next"] is None:
            return records[-1]
        start = got["next"]


def check_a_mutation_joins_the_open_trial(client: Client) -> None:
    base = state(client)
    assert mutate(client, _EDIT, lease_ms=60_000).code == 0
    assert (_promoted(client), generation(client)) == (base[0], base[0] + 1)
    assert mutate(client, _other(3.0)).code == 0
    assert (_promoted(client), generation(client)) == (base[0], base[0] + 2)
    _expire(client)
    _until_generation(client, base[0] + 3)
    assert state(client) == (base[0] + 3, base[1])


def check_what_was_promoted_stays(client: Client) -> None:
    base = state(client)
    for lease_ms in _LEASES_MS:
        trial = mutate(client, _EDIT, lease_ms=lease_ms).result["generation"]
        held = state(client)
        params = {"id": new_id(), "generation": trial}
        got = client.ask("promote", params)
        if got.code != 1014:
            break
        _until_generation(client, trial + 1)
    assert got.result == {"promoted": trial, "durable": False}
    assert client.ask("promote", params).result["promoted"] == trial
    time.sleep(lease_ms / 1000 + 0.3)
    assert state(client) == held
    assert _promoted(client) == trial
    _clean_up(client, base)


def check_a_renewed_lease_lives_longer(client: Client) -> None:
    base = state(client)
    for lease_ms in _LEASES_MS:
        trial = mutate(client, _EDIT, lease_ms=lease_ms).result["generation"]
        got = client.ask("renew", {"generation": trial, "lease_ms": 600_000})
        if got.code != 1014:
            break
        _until_generation(client, trial + 1)
    assert got.result == {}
    time.sleep(lease_ms / 1000 + 0.3)
    assert generation(client) == trial
    _expire(client)
    _until_generation(client, trial + 1)
    assert state(client)[1] == base[1]
    assert client.ask("renew", {"generation": trial, "lease_ms": 500}).code == 1014


def check_promote_names_the_generation_it_means(client: Client) -> None:
    base = state(client)
    trial = mutate(client, _EDIT, lease_ms=60_000).result["generation"]
    with unchanged(client):
        assert client.ask("promote", {"id": new_id(), "generation": trial + 1}).code == 1014
    promote(client)
    _clean_up(client, base)


def check_a_crash_does_not_lengthen_a_trial(client: Client) -> None:
    """The crash may keep or end the trial; after the lease the promoted contents are back."""
    base = state(client)
    trial = mutate(client, _EDIT, lease_ms=700).result["generation"]
    held = state(client)
    crash(client)
    assert state(client) in (held, (trial + 1, base[1]))
    _until_generation(client, trial + 1)
    assert state(client) == (trial + 1, base[1])
    assert _promoted(client) == trial + 1


def check_a_promotion_outlives_a_crash(client: Client) -> None:
    base = state(client)
    assert mutate(client, _EDIT, lease_ms=60_000).code == 0
    promote(client)
    held = state(client)
    crash(client)
    assert state(client) == held
    assert _promoted(client) == held[0]
    _clean_up(client, base)


def check_a_rollback_ends_where_it_says_in_a_trial(client: Client) -> None:
    base = state(client)
    assert mutate(client, _EDIT, lease_ms=60_000).code == 0
    now = rollback(client, base[0])
    assert state(client) == (now, base[1])
    assert _promoted(client) == now
    assert client.ask("renew", {"generation": now, "lease_ms": 1}).code == 1014


def check_a_replay_does_not_open_the_trial_again(client: Client) -> None:
    base = state(client)
    params = {"id": new_id(), "base_generation": base[0], "confidence": 0.9, "origin": "", "lease_ms": 300}
    params["edits"] = [{**_EDIT.members, "blob": [0, len(_EDIT.part)]}]
    assert client.ask("mutate", params, blob=_EDIT.part).result["replayed"] is False
    _until_generation(client, base[0] + 2)
    assert client.ask("mutate", params, blob=_EDIT.part).result["replayed"] is True
    assert state(client) == (base[0] + 2, base[1])


def check_a_checkpoint_changes_nothing(client: Client) -> None:
    with unchanged(client):
        assert client.result("checkpoint", label="here") == {"generation": generation(client), "durable": False}


def check_events_of_mutations(client: Client) -> None:
    base = state(client)
    client.result("subscribe", events=["mutation"])
    ids = [new_id(), new_id(), new_id(), new_id()]
    assert mutate(client, _EDIT, id=ids[0]).code == 0
    assert client.ask("rollback", {"id": ids[1], "to": base[0]}).code == 0
    trial = mutate(client, _EDIT, id=ids[2], lease_ms=60_000).result["generation"]
    assert client.ask("promote", {"id": ids[3], "generation": trial}).code == 0
    assert mutate(client, _other(4.0), lease_ms=60_000).code == 0
    assert mutate(client, _other(9.0), confidence=0.1).code == 1006
    _expire(client)
    _until_generation(client, trial + 2)
    events = [event for event in client.events if event["kind"] == "mutation"]
    assert [event["change"] for event in events] == [
        "mutate", "rollback", "mutate", "promote", "mutate", "lease_expired",
    ]  # fmt: skip
    assert [event["id"] for event in events[:4]] == ids
    assert [event["generation"] for event in events] == [base[0] + step for step in (1, 2, 3, 3, 4, 5)]
    client.result("subscribe", events=[])
    client.events.clear()
    _clean_up(client, base)
    client.result("stats")
    assert client.events == []


def check_subscriptions_name_known_events(client: Client) -> None:
    assert client.ask("subscribe", {"events": ["weather"]}).code == -32602
    assert client.ask("subscribe", {"events": "mutation"}).code == -32602
    subscribed = client.result("subscribe", events=["heartbeat", "mutation", "alert"])["subscribed"]
    assert sorted(subscribed) == ["alert", "heartbeat", "mutation"]
    assert client.result("subscribe", events=[])["subscribed"] == []


def check_an_event_comes_before_its_generation_is_shown(client: Client) -> None:
    base = state(client)
    client.result("subscribe", events=["mutation"])
    for _ in range(40):
        made = mutate(client, _EDIT, lease_ms=60_000).result["generation"]
        _expire(client)
        until = time.monotonic() + client.patience
        while generation(client) == made:
            assert time.monotonic() < until
        last = [event for event in client.events if event["kind"] == "mutation"][-1]
        assert (last["change"], last["generation"]) == ("lease_expired", made + 1)
    client.result("subscribe", events=[])
    client.events.clear()
    assert state(client)[1] == base[1]
