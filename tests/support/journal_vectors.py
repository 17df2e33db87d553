"""The state devices of `tests/vectors/journal`: made here, byte for byte the same each time, and described there.

`python -m tests.support.journal_vectors` writes the descriptions anew, with what the reader in Python finds.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.state_devices import SIZE, StateWriter, image, mutation
from tests.torture.readers import read_in_python
from vboot.journal.entries import Kind
from vboot.journal.tables import BLOCK

FOLDER = Path(__file__).parents[1] / "vectors/journal"
_EDITS = [{"kind": "dense", "tensor": "w", "offset": 0, "blob": [0, 8]}]


def _boots() -> bytearray:
    """Three mutations in two boots."""
    writer = StateWriter()
    _mutate(writer, 1)
    _mutate(writer, 2)
    writer.boot = 2
    _mutate(writer, 3)
    return writer.data


def _image() -> bytearray:
    """A log that begins with an image, behind entries that were removed."""
    writer = StateWriter()
    _mutate(writer, 1)
    start = writer.start_at_next()
    payload = image({0: b"p" * BLOCK}, [b"j" * 16])
    writer.frame(writer.entry(Kind.IMAGE, payload, generation=1, promoted=1))
    writer.next_superblock(**start)
    writer.next_superblock()
    _mutate(writer, 2)
    return writer.data


def _trial() -> bytearray:
    """A mutation, and one on trial."""
    writer = StateWriter()
    _mutate(writer, 1)
    _mutate(writer, 2, promoted=1, lease_until_us=9_000_000)
    return writer.data


def _rollback() -> bytearray:
    """Two mutations, and a return to the first one, in one frame with a promotion."""
    writer = StateWriter()
    _mutate(writer, 1)
    _mutate(writer, 2)
    back = writer.entry(Kind.ROLLBACK, generation=3, promoted=3, target=1)
    writer.frame(back, writer.entry(Kind.PROMOTE, place=1, generation=3, promoted=3, target=3))
    return writer.data


def _wrapped() -> bytearray:
    """A log whose last frame crosses the end of the ring."""
    writer = StateWriter()
    _mutate(writer, 1, b"b" * (10 << 20))
    start = writer.start_at_next()
    writer.frame(writer.entry(Kind.IMAGE, image({}), generation=1, promoted=1))
    writer.next_superblock(**start)
    writer.next_superblock()
    _mutate(writer, 2, b"c" * (8 << 20))
    return writer.data


def _torn() -> bytearray:
    """Two mutations; of the last frame only the first sector was written."""
    writer = StateWriter()
    _mutate(writer, 1)
    torn = writer.place(_mutate(writer, 2, b"b" * 5000))
    writer.data[torn + 512 : torn + 2 * BLOCK] = bytes(2 * BLOCK - 512)
    return writer.data


def _middle() -> bytearray:
    """Three mutations; a bit of the second one is flipped."""
    writer = StateWriter()
    _mutate(writer, 1)
    writer.data[writer.place(_mutate(writer, 2)) + 200] ^= 1
    _mutate(writer, 3)
    return writer.data


def _foreign() -> bytearray:
    """Something else is on it."""
    return bytearray(b"somebody else's data".ljust(SIZE, b"."))


def _newer() -> bytearray:
    """A format that version 1 cannot read."""
    writer = StateWriter()
    writer.next_superblock(version=3, least_reader=2)
    return writer.data


def _other_model() -> bytearray:
    """The journal of another file: SHA-256 is all 0x55. Refused only where the file is known."""
    writer = StateWriter(file=b"\x55" * 32)
    _mutate(writer, 1)
    return writer.data


def _small() -> bytearray:
    """One block less than the smallest device."""
    return bytearray(SIZE - BLOCK)


def _cut_off() -> bytearray:
    """A device that was larger when it was formatted."""
    return StateWriter(size=SIZE + 2 * BLOCK).data[:SIZE]


def _mutate(writer: StateWriter, generation: int, blob: bytes = b"b" * 8, **values: Any) -> int:
    """A mutation in a frame of its own; where it is."""
    fields: dict[str, Any] = {
        "generation": generation,
        "promoted": generation,
        "id": generation.to_bytes(16, "little"),
    } | values
    return writer.frame(writer.entry(Kind.MUTATE, mutation(_EDITS, blob), **fields))


DEVICES: Mapping[str, Callable[[], bytearray]] = {
    "boots": _boots,
    "image": _image,
    "trial": _trial,
    "rollback": _rollback,
    "wrapped": _wrapped,
    "torn_tail": _torn,
    "damaged_middle": _middle,
    "foreign": _foreign,
    "newer": _newer,
    "other_model": _other_model,
    "too_small": _small,
    "cut_off": _cut_off,
}


def read(name: str) -> dict[str, Any]:
    """The description of a vector."""
    vector: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return vector


def main() -> None:
    """Write all descriptions."""
    with tempfile.TemporaryDirectory() as folder:
        for name, make in DEVICES.items():
            path, data = Path(folder) / "device.img", make()
            path.write_bytes(data)
            about = (make.__doc__ or "").strip()
            facts = {"about": about, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            text = json.dumps(facts | {"found": read_in_python(path)}, indent=2)
            (FOLDER / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
