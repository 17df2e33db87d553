"""Machines that take signed changes only, behind a socket and in process."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.executable import executable_path
from image.compose import compose
from tests.support import signed_vectors
from tests.support.evolution_port.expect import EvolutionPort
from tests.support.listening import PATIENCE
from tests.support.local_machine import local_machine
from tests.support.signing import EDIT, ID, OTHER, mutation, refusal, sealed
from tests.support.vboot import Vboot
from vboot.client.bridge import RustNeuralBridge
from vboot.client.machine import MachineClient, connect
from vboot.client.requests import Uploaded
from vboot.client.signer import Signer
from vboot.errors import InputError
from vboot.protocol.tables import Code
from vboot.weights.edits import Dense


@pytest.fixture(params=["socket", "in_process"])
def machine(
    request: pytest.FixtureRequest, tmp_path: Path, signed_model: Path, signer: Signer
) -> Iterator[MachineClient]:
    if request.param == "socket":
        with local_machine(tmp_path, model=signed_model) as local, connect(local.socket, signer=signer) as client:
            yield client
    else:
        with RustNeuralBridge() as bridge:
            bridge.initialize(signed_model)
            yield bridge.client(signer=signer)


def test_all_changes_are_signed_by_the_client(machine: MachineClient) -> None:
    assert machine.greeted.signed
    assert len(machine.greeted.appliance or "") == 32
    made = machine.mutate([EDIT], confidence=0.9, lease_ms=60_000)
    machine.renew(made.generation, 120_000)
    machine.renew(made.generation, 120_000)
    assert machine.promote(made.generation).promoted == 1
    assert machine.rollback(0).generation == 2
    large = Dense("token_embd.weight", 0, machine.read("token_embd.weight").data[::-1])
    assert machine.mutate([large], confidence=0.9).generation == 3
    assert machine.checkpoint().generation == 3


def test_nothing_unsigned_changes_the_weights(machine: MachineClient) -> None:
    machine.signer = None
    before = machine.digest([]).model
    for change in (
        lambda: machine.mutate([EDIT], confidence=0.9),
        lambda: machine.rollback(0),
        lambda: machine.promote(0),
        lambda: machine.renew(0, 1000),
    ):
        with pytest.raises(InputError, match="this machine takes signed changes only; give --key FILE"):
            change()
    unsigned: dict[str, dict[str, Any]] = {
        "mutate": mutation(0),
        "rollback": {"id": ID, "to": 0},
        "promote": {"id": ID, "generation": 0},
        "renew": {"generation": 0, "lease_ms": 1},
    }
    for method, params in unsigned.items():
        blob = EDIT.data if method == "mutate" else None
        assert refusal(lambda m=method, p=params, b=blob: machine.request(m, p, b)) == Code.BAD_SIGNATURE  # type: ignore[misc]
    assert (machine.digest([]).model, machine.hello().generation) == (before, 0)


def test_a_copy_of_a_signed_change_does_nothing(machine: MachineClient, signer: Signer, signed_model: Path) -> None:
    params = sealed(machine, signer, "mutate", mutation(0), EDIT.data)
    made = machine.request("signed", params, EDIT.data).result
    assert (made["generation"], made["replayed"]) == (1, False)
    again = machine.request("signed", params, EDIT.data).result
    assert (again["generation"], again["replayed"]) == (1, True)
    back = sealed(machine, signer, "rollback", {"id": "02" * 16, "to": 0, "base_generation": 1})
    assert machine.request("signed", back).result["generation"] == 2
    again = machine.request("signed", back).result
    assert again == {"generation": 2, "restored": 0, "durable": False, "replayed": True}
    late = sealed(machine, signer, "rollback", {"id": "03" * 16, "to": 1, "base_generation": 1})
    assert refusal(lambda: machine.request("signed", late)) == Code.STALE_GENERATION
    assert (
        refusal(
            lambda: machine.request(
                "signed", sealed(machine, signer, "mutate", mutation(0, "04" * 16), EDIT.data), EDIT.data
            )
        )
        == Code.STALE_GENERATION
    )
    with RustNeuralBridge() as bridge:
        bridge.initialize(signed_model)
        assert refusal(lambda: bridge.client().request("signed", params, EDIT.data)) == Code.BAD_SIGNATURE
    assert machine.hello().generation == 2


def test_another_blob_is_refused(machine: MachineClient, signer: Signer) -> None:
    params = sealed(machine, signer, "mutate", mutation(0), EDIT.data)
    assert refusal(lambda: machine.request("signed", params, OTHER.data)) == Code.BAD_SIGNATURE
    assert refusal(lambda: machine.request("signed", params)) == Code.UNUSABLE_BLOB
    swapped = Uploaded(machine.upload(OTHER.data))
    send = machine._session.request
    deadline = machine._deadline(10)
    assert refusal(lambda: send("signed", params, swapped, deadline)) == Code.BAD_SIGNATURE
    unsigned_blob = sealed(machine, signer, "mutate", mutation(0))
    assert refusal(lambda: machine.request("signed", unsigned_blob, EDIT.data)) == Code.BAD_SIGNATURE
    right = Uploaded(machine.upload(EDIT.data))
    assert send("signed", params, right, deadline).result["generation"] == 1
    assert send("signed", params, right, deadline).result["replayed"] is True


def test_every_flipped_bit_is_refused(machine: MachineClient, signer: Signer) -> None:
    params = sealed(machine, signer, "promote", {"id": ID, "generation": 0})
    for name, text in params.items():
        for place in range(len(text)):
            for bit in range(7):
                changed = text[:place] + chr(ord(text[place]) ^ 1 << bit) + text[place + 1 :]
                code = refusal(lambda p={**params, name: changed}: machine.request("signed", p))  # type: ignore[misc]
                assert code in (Code.BAD_SIGNATURE, Code.INVALID_PARAMS), (name, place, bit)
    assert machine.request("signed", params).result == {"promoted": 0, "durable": False}


@pytest.mark.usefixtures("library")
def test_the_vectors_are_judged_by_a_machine(tmp_path: Path) -> None:
    """What the key pair of the vectors has signed is for another machine; the rest is refused for its own reason."""
    vectors = json.loads(signed_vectors.VECTORS.read_text("utf-8"))
    compose("tiny", tmp_path / "m.gguf", mutation_key=bytes.fromhex(vectors["public_key"]))
    code = {"opened": 1010, "parameters": -32602, "signature": 1010, "payload": -32602}
    with RustNeuralBridge() as bridge:
        bridge.initialize(tmp_path / "m.gguf")
        client = bridge.client()
        for case in vectors["cases"]:
            assert refusal(lambda p=case["params"]: client.request("signed", p)) == code[case["outcome"]], case["name"]  # type: ignore[misc]


def test_the_client_signs_as_the_vectors_are() -> None:
    vectors = json.loads(signed_vectors.VECTORS.read_text("utf-8"))
    signer = Signer(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(vectors["private_key"])))
    by_name = {case["name"]: case for case in vectors["cases"]}
    for name in ("promote", "rollback", "renew", "mutate"):
        call = by_name[name]["call"]
        blob = b"cat\xfa\xff\x00" if name == "mutate" else b""
        assert signer.sign(name, call["params"], blob, appliance=call["appliance"]) == by_name[name]["params"]


def test_an_id_stays_when_the_worker_is_started_again(tmp_path: Path, signed_model: Path, signer: Signer) -> None:
    with local_machine(tmp_path, model=signed_model) as local, connect(local.socket, signer=signer) as client:
        before = client.greeted.appliance
        params = sealed(client, signer, "mutate", mutation(0), EDIT.data)
        client.request("signed", params, EDIT.data)
        os.kill(client.stats().worker.pid, signal.SIGKILL)
        assert client.hello().appliance == before
        assert client.request("signed", params, EDIT.data).result["replayed"] is True
    (tmp_path / "later").mkdir()
    with local_machine(tmp_path / "later", model=signed_model) as local, connect(local.socket, signer=signer) as client:
        assert client.greeted.appliance != before
        assert refusal(lambda: client.request("signed", params, EDIT.data)) == Code.BAD_SIGNATURE


def test_a_machine_without_a_key_takes_no_signed_changes(tmp_path: Path, signer: Signer) -> None:
    with local_machine(tmp_path) as local, connect(local.socket, signer=signer) as client:
        assert (client.greeted.signed, client.greeted.appliance) == (False, None)
        params = signer.sign("promote", {"id": ID, "generation": 0}, b"", appliance="00" * 16)
        assert refusal(lambda: client.request("signed", params)) == Code.BAD_SIGNATURE
        assert client.mutate([EDIT], confidence=0.9).generation == 1


def test_a_change_that_does_not_fit_a_line_when_signed_is_refused_here(machine: MachineClient) -> None:
    edits = [Dense("x" * 60, number, b"\0") for number in range(450)]
    with pytest.raises(InputError, match="make it in several changes, each with fewer edits"):
        machine.mutate(edits, confidence=0.9)


@given(payload=st.binary(max_size=200), keyid=st.booleans(), good=st.booleans())
@settings(
    derandomize=True, deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_envelope_is_survived(
    fuzzed: tuple[MachineClient, Signer], payload: bytes, keyid: bool, good: bool
) -> None:
    machine, signer = fuzzed
    data = payload if not good else json.dumps({"method": payload.decode("latin-1")}).encode()
    params = {
        "payload": base64.b64encode(data).decode(),
        "keyid": signer.key_id if keyid else "0" * 64,
        "sig": base64.b64encode(
            signer.key.sign(signed_vectors.pre_authentication_encoding(signed_vectors.TYPE, data))
        ).decode(),
    }
    assert refusal(lambda: machine.request("signed", params)) == (Code.INVALID_PARAMS if keyid else Code.BAD_SIGNATURE)


@pytest.fixture(scope="module")
def fuzzed(signed_model: Path, signer: Signer) -> Iterator[tuple[MachineClient, Signer]]:
    with RustNeuralBridge() as bridge:
        bridge.initialize(signed_model)
        yield bridge.client(), signer


def test_on_a_state_device_the_id_and_what_is_known_outlive_the_machine(
    tmp_path: Path, signed_model: Path, signer: Signer
) -> None:
    state = tmp_path / "state.img"
    with state.open("wb") as file:
        file.truncate(64 << 20)
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
    with (
        local_machine(tmp_path / "first", "--state", str(state), model=signed_model) as local,
        connect(local.socket, signer=signer) as client,
    ):
        before = client.greeted.appliance
        change = sealed(client, signer, "mutate", mutation(0), EDIT.data)
        assert client.request("signed", change, EDIT.data).result["durable"] is True
        back = sealed(client, signer, "rollback", {"id": "02" * 16, "to": 0, "base_generation": 1})
        unused = sealed(client, signer, "rollback", {"id": "03" * 16, "to": 1, "base_generation": 1})
        assert client.request("signed", back).result["generation"] == 2
    with (
        local_machine(tmp_path / "second", "--state", str(state), model=signed_model) as local,
        connect(local.socket, signer=signer) as client,
    ):
        assert (client.greeted.appliance, client.greeted.generation) == (before, 2)
        assert client.request("signed", change, EDIT.data).result["replayed"] is True
        assert client.request("signed", back).result["replayed"] is True
        assert refusal(lambda: client.request("signed", unused)) == Code.STALE_GENERATION
        assert client.hello().generation == 2


def test_signed_changes_become_permanent_together(
    vboot: Vboot, tmp_path: Path, signed_model: Path, signer: Signer
) -> None:
    count = 100
    state = tmp_path / "state.img"
    with state.open("wb") as file:
        file.truncate(64 << 20)
    with local_machine(tmp_path, "--state", str(state), "--energy", "off", model=signed_model) as local:
        with connect(local.socket, signer=signer) as client:
            blobs = [EDIT.data, OTHER.data] * (count // 2)
            changes = [
                (sealed(client, signer, "mutate", mutation(number, f"{number + 1:032x}"), blob), blob)
                for number, blob in enumerate(blobs)
            ]
        wrong = {**changes[50][0], "sig": changes[49][0]["sig"]}
        changes.insert(50, (wrong, blobs[50]))
        with EvolutionPort(local.socket) as port:
            port.greet(timeout=PATIENCE)
            sent = [port.send("signed", params, blob=blob) for params, blob in changes]
            replies = [port.reply(ident, timeout=PATIENCE) for ident in sent]
            assert (replies.pop(50).error or {})["code"] == Code.BAD_SIGNATURE
            assert [reply.result and reply.result["generation"] for reply in replies] == list(range(1, count + 1))
    entries = vboot.json("journal", "show", state)["entries"]
    assert len(entries) == count
    assert len({entry["frame"] for entry in entries}) < count / 2


def test_a_reload_is_signed_for_what_runs_now(tmp_path: Path, signed_model: Path, signer: Signer) -> None:
    program = executable_path().read_bytes()
    with (
        local_machine(tmp_path, "--fault", model=signed_model) as local,
        connect(local.socket, signer=signer) as client,
    ):
        hello = client.hello()
        upload, deadline = Uploaded(client.upload(program)), client._deadline(60)
        send = client._session.request
        assert refusal(lambda: send("reload", {"what": "binary"}, upload, deadline)) == Code.BAD_SIGNATURE
        swapped = Uploaded(client.upload(program[:-1] + b"x"))
        state = {"base_generation": hello.generation, "base_build": hello.build}
        params = sealed(client, signer, "reload", {"what": "binary", **state}, program)
        assert refusal(lambda: send("signed", params, swapped, deadline)) == Code.BAD_SIGNATURE
        for other in ({"base_generation": 7}, {"base_build": "0" * 12}):
            stale = sealed(client, signer, "reload", {"what": "binary", **state, **other}, program)
            assert refusal(lambda p=stale: send("signed", p, upload, deadline)) == Code.STALE_GENERATION  # type: ignore[misc]
        assert client.reload(program).build == hello.build
