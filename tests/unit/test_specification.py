"""The examples in the specification are true: its session at a real machine, its worked noise, its checksum."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import numpy as np

from tests.conformance.client import crc32c
from tests.conformance.reference import noise
from tests.support.local_machine import local_machine, tiny_model

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "spec" / "protocol.md").read_text("utf-8")
_WAIT_S = 120.0


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def raw(text: str) -> bytes:
    r"""The bytes of a line of the session: `\xNN` stands for one byte."""
    return re.sub(rb"\\x([0-9a-f]{2})", lambda code: bytes.fromhex(code[1].decode()), text.encode())


def messages() -> list[tuple[str, bytes]]:
    """The session as (direction, bytes), a blob behind its line."""
    found: list[tuple[str, bytes]] = []
    for line in re.findall(r"^    (.*)$", section("17. A session"), re.MULTILINE):
        if line[0] in "<>":
            found.append((line[0], raw(line[2:]) + b"\n"))
        else:
            direction, data = found[-1]
            found[-1] = (direction, data + raw(line.strip()))
    return found


def comparable(line: bytes) -> Any:
    """A reply without what differs from build to build, and without the wording of messages."""

    def plain(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: plain(item) for key, item in value.items() if key not in ("build", "version", "message")}

    return plain(json.loads(line))


def test_the_session_happens_as_written(tmp_path: Path) -> None:
    with local_machine(tmp_path, model=tiny_model()) as machine, socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(_WAIT_S)
        stream.connect(str(machine.socket))
        reader = stream.makefile("rb")
        for direction, data in messages():
            if direction == ">":
                stream.sendall(data)
                continue
            line, _, blob = data.partition(b"\n")
            assert comparable(reader.readline()) == comparable(line)
            assert reader.read(len(blob)) == blob


def test_the_session_shows_every_kind_of_message() -> None:
    assert [direction for direction, _ in messages()].count(">") >= 4
    assert any(b'"error"' in data for _, data in messages())


def test_the_worked_noise() -> None:
    text = section("10. Noise of seeded edits")
    rows = re.findall(
        r"^\| (\d) \| ([0-9a-f]{16}) \| (\S+) \| (yes|no) \| ?(\S*) \| (\S+) \| (\S+) \|$", text, re.MULTILINE
    )
    words = noise("00c0ffee00c0ffee", "blk.0.attn_q.weight", len(rows))
    assert len(rows) == 8
    for (number, word, z, selected, step, single, half), drawn in zip(rows, words, strict=True):
        value = int(drawn)
        assert word == f"{value:016x}", number
        assert float(z) == ((value >> 32).bit_count() - 16) / 4
        chosen = value % 2**32 < 2**31
        assert selected == ("yes" if chosen else "no")
        assert step == ("" if not chosen else "+1" if value >> 63 else "-1")
        result = np.float32(1) + np.float32(0.1) * np.float32(z) if chosen else np.float32(1)
        assert single == f"{result.view(np.uint32):08x}"
        assert half == f"{np.float16(result).view(np.uint16):04x}"


def test_the_worked_checksum() -> None:
    assert "`123456789` is `e3069283`" in " ".join(section("2. Framing").split())
    assert crc32c(b"123456789") == 0xE3069283
