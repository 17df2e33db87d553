"""Every method refuses parameters that are unknown, missing or of the wrong type, over a socket and in process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.local_machine import local_machine, tiny_model
from vboot.client.bridge import RustNeuralBridge
from vboot.client.machine import MachineClient, connect
from vboot.protocol.errors import RequestRefusedError
from vboot.protocol.tables import METHODS, Code, Method

VALID: Mapping[str, Any] = {
    "integer": 1,
    "number": 0.5,
    "boolean": True,
    "string": "x",
    "strings": ["x"],
    "hex16": "0" * 32,
    "hex32": "0" * 64,
    "request_id": 1,
    "edits": [],
    "any": 0.9,
}
"""A value of each type."""
SPECIAL: Mapping[tuple[str, str], Any] = {
    ("tensors", "cursor"): "0",
    ("signed", "payload"): "",
    ("signed", "sig"): "A" * 86 + "==",
    ("embed", "truncate"): "end",
    ("subscribe", "events"): ["alert"],
    ("fault", "what"): "orphans",
    ("reload", "what"): "binary",
}
"""Where not every value of the type is valid."""
WRONG: Mapping[str, list[Any]] = {
    "integer": ["1", 1.5, -1, True, [], {}, 2**53 + 1],
    "number": ["1", True, [], {}],
    "boolean": [0, "true", [], {}],
    "string": [1, True, [], {}],
    "strings": ["x", 1, [1], [None], {}],
    "hex16": ["0" * 31, "0" * 33, "A" * 32, 1, []],
    "hex32": ["0" * 63, "0" * 65, "A" * 64, 1, []],
    "request_id": [True, 0.5, {}, [], "x" * 257, "é" * 129],
    "edits": ["x", 1, {}, [1], [None]],
    "any": [],
}
UNKNOWN = "no_such_parameter"


@dataclass(frozen=True)
class Face:
    """A machine that is reached in one of two ways, and the methods that it answers there."""

    client: MachineClient
    methods: tuple[Method, ...]


@pytest.fixture(scope="module", params=["socket", "in_process"])
def face(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Face]:
    if request.param == "socket":
        folder = tmp_path_factory.mktemp("machine")
        with local_machine(folder, "--fault") as local, connect(local.socket) as client:
            yield Face(client, tuple(METHODS.values()))
    else:
        with RustNeuralBridge() as bridge:
            bridge.initialize(tiny_model())
            yield Face(bridge.client(), tuple(method for method in METHODS.values() if method.in_process))


def valid(method: Method) -> dict[str, Any]:
    """Valid values for all parameters."""
    return {each.name: SPECIAL.get((method.name, each.name), VALID[each.type]) for each in method.parameters}


def refusal(face: Face, method: Method, params: dict[str, Any]) -> RequestRefusedError:
    with pytest.raises(RequestRefusedError) as caught:
        face.client.request(method.name, params)
    return caught.value


def test_an_unknown_parameter_is_refused(face: Face) -> None:
    for method in face.methods:
        error = refusal(face, method, {**valid(method), UNKNOWN: 1})
        assert (error.code, UNKNOWN in error.message) == (Code.INVALID_PARAMS, True), method.name


def test_a_parameter_of_the_wrong_type_is_refused(face: Face) -> None:
    for method in face.methods:
        for parameter in method.parameters:
            for wrong in WRONG[parameter.type]:
                error = refusal(face, method, {**valid(method), parameter.name: wrong})
                assert error.code == Code.INVALID_PARAMS, (method.name, parameter, wrong)
                named = f'"{parameter.name}"' in error.message
                assert named or parameter.type == "edits", (method.name, error.message)


def test_a_required_parameter_must_be_there_and_null_counts_as_absent(face: Face) -> None:
    for method in face.methods:
        params = valid(method)
        for parameter in (parameter for parameter in method.parameters if parameter.required):
            for absent in ({**params, parameter.name: None}, {n: v for n, v in params.items() if n != parameter.name}):
                error = refusal(face, method, absent)
                assert error.code == Code.INVALID_PARAMS, (method.name, parameter)
                assert error.message == f'parameter "{parameter.name}" is missing', method.name


def test_null_for_an_optional_parameter_counts_as_absent(face: Face) -> None:
    for method in face.methods:
        for parameter in (parameter for parameter in method.parameters if not parameter.required):
            # Types are checked before unknown parameters are, so this error says that the null was accepted.
            error = refusal(face, method, {**valid(method), parameter.name: None, UNKNOWN: 1})
            assert UNKNOWN in error.message, (method.name, parameter)


def test_a_blob_for_a_method_that_takes_none_is_refused(face: Face) -> None:
    for method in (method for method in face.methods if method.blob == "none"):
        with pytest.raises(RequestRefusedError, match=f"{method.name} takes no blob") as caught:
            face.client.request(method.name, valid(method), b"x")
        assert caught.value.code == Code.INVALID_PARAMS, method.name


def test_any_valid_id_can_be_cancelled(face: Face) -> None:
    for ident in (0, -1, 2**53, "", "x" * 256, "é" * 128):
        assert face.client.request("cancel", {"request": ident}).result == {"cancelled": False}


def test_what_needs_a_connection_is_unknown_in_process() -> None:
    with RustNeuralBridge() as bridge:
        bridge.initialize(tiny_model())
        face = Face(bridge.client(), ())
        for method in (method for method in METHODS.values() if not method.in_process):
            assert refusal(face, method, valid(method)).code == Code.UNKNOWN_METHOD, method.name
