"""A disk with a hash tree: each block of the image is checked when it is read, a wrong one is never computed with."""

from __future__ import annotations

from pathlib import Path

import pytest

from image.rts import HEADER_SIZE, parse_header
from image.verity import BLOCK, Verity, hash_tree
from qemu.launch import start
from tests.boot.conftest import Image
from tests.boot.test_machine import error, result
from tests.support.evolution_port.expect import EvolutionPort, machine_port
from vboot.gguf import read_layout
from vboot.protocol.tables import Code

TENSOR = "token_embd.weight"


@pytest.fixture
def disk(tiny: Image, tmp_path: Path) -> tuple[Path, Verity]:
    """The tiny image with its hash tree behind it."""
    data = tiny.rts.read_bytes()
    verity, tree = hash_tree([data])
    path = tmp_path / "image.verity"
    path.write_bytes(data.ljust(verity.data_bytes, b"\0") + tree)
    return path, verity


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def place_of(rts: Path) -> int:
    """The middle of a tensor, in the file of the image."""
    data = rts.read_bytes()
    start = parse_header(data[:HEADER_SIZE], file_size=len(data)).tensor_offset
    layout = read_layout(memoryview(data)[start:], name=rts.name)
    tensor = next(tensor for tensor in layout.tensors if tensor.name == TENSOR)
    return start + layout.data_offset + tensor.offset + tensor.size // 2


def digest(port: EvolutionPort) -> str:
    return str(result(port, "digest")["model"])


def test_a_sound_image_is_read_through_its_hash_tree(tiny: Image, disk: tuple[Path, Verity]) -> None:
    path, verity = disk
    with start(tiny.spec()) as machine, machine_port(machine) as port:
        port.greet()
        expected = digest(port)
    with (
        start(tiny.spec_with(path, append=f"vector_boot.verity={verity}")) as machine,
        machine_port(machine) as port,
    ):
        port.greet()
        assert digest(port) == expected


def test_a_flipped_bit_in_the_weights_is_never_computed_with(tiny: Image, disk: tuple[Path, Verity]) -> None:
    path, verity = disk
    flip(path, place_of(tiny.rts))
    with (
        start(tiny.spec_with(path, append=f"vector_boot.verity={verity}")) as machine,
        machine_port(machine) as port,
    ):
        port.greet()
        # Reading ahead may find it before anybody asks.
        port.send("embed", {"texts": ["a text"]})
        machine.wait_for_console("EMERGENCY: the image is damaged")
        port.resync()
        assert "does not have the hash" in result(port, "hello", protocol=1, client="test")["emergency"]
        assert error(port, "digest") == Code.EMERGENCY
        assert error(port, "embed", texts=["a text"]) == Code.EMERGENCY
        beats = int(result(port, "stats")["heartbeats"])
        assert int(result(port, "stats")["heartbeats"]) >= beats


@pytest.mark.parametrize("where", ["header", "tree", "root"])
def test_another_image_than_the_stated_one_does_not_start(tiny: Image, disk: tuple[Path, Verity], where: str) -> None:
    path, verity = disk
    if where == "root":
        verity = Verity(bytes(32), verity.data_blocks)
    else:
        flip(path, 300 if where == "header" else verity.data_bytes + BLOCK // 2)
    with start(tiny.spec_with(path, append=f"vector_boot.verity={verity}")) as machine:
        machine.wait_exit()
        said = machine.console.read_text(errors="replace")
    assert "FAILED: no RTS image: vda does not have the stated root hash" in said
    assert "Entering Heartbeat Loop" not in said
