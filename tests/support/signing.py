"""Signed changes in tests: made, sealed, refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from vboot.client.machine import MachineClient
from vboot.client.signer import Signer
from vboot.protocol.errors import RequestRefusedError
from vboot.weights.edits import Dense

EDIT = Dense("token_embd.weight", 0, b"\x00\x38\x00\x34")
OTHER = Dense("token_embd.weight", 0, b"\x00\x38\x00\x35")
ID = "01" * 16


def refusal(send: Callable[[], object]) -> int:
    """The code with which a request is refused."""
    with pytest.raises(RequestRefusedError) as caught:
        send()
    return caught.value.code


def mutation(base: int, ident: str = ID) -> dict[str, Any]:
    """The parameters of a mutation that makes `EDIT`."""
    edit = {"kind": "dense", "tensor": EDIT.tensor, "offset": 0, "blob": [0, len(EDIT.data)]}
    return {"id": ident, "base_generation": base, "confidence": 0.9, "edits": [edit]}


def sealed(machine: MachineClient, signer: Signer, method: str, params: Mapping[str, Any], blob: bytes = b"") -> Any:
    """The parameters of `signed` for this request to this machine."""
    return signer.sign(method, params, blob, appliance=machine.greeted.appliance or "")
