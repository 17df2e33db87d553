"""`vboot` in this process, and input files for its tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cli import main

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC_HEX = KEY.public_key().public_bytes_raw().hex()
STEPS = ("executable", "compose", "rts", "kernel", "initramfs", "sbom", "manifest")
"""The steps of an image of the tiny model."""


class Vboot:
    """Runs commands in this process and keeps what they printed."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self.out = self.err = ""

    def __call__(self, *words: str | Path) -> int:
        code = main([str(word) for word in words])
        self.out, self.err = self._capture.readouterr()
        return code

    def json(self, *words: str | Path, code: int = 0) -> Any:
        assert self(*words, "--json") == code, self.err
        return json.loads(self.out)

    def last_error(self) -> str:
        return self.err.splitlines()[-1]


def write_key(path: Path) -> Path:
    path.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


def write_gguf(path: Path, *, name: str = "weights") -> Path:
    writer = gguf.GGUFWriter(path, "unknown")
    writer.add_tensor(name, np.arange(64, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
