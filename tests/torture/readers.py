"""The two readers of state devices, in Rust and in Python, on the same bytes: random devices with random damage.

python -m tests.torture.readers [--devices 1000] [--seed 1]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

from tests.support.state_devices import SIZE, StateWriter, image
from vboot.journal.device import Device
from vboot.journal.entries import Kind
from vboot.journal.recovery import recover
from vboot.journal.replay import newest
from vboot.journal.tables import AREA_START, BLOCK

CRATE = Path(__file__).parents[2] / "vector_boot"
_ANSWER_S = 120


class RustReader:
    """The example `journal_read` of the crate, which answers for one device after another."""

    def __init__(self) -> None:
        """Build and start it. Raises CalledProcessError."""
        cargo = ["cargo", "build", "--quiet", "--locked", "--features", "standalone", "--example", "journal_read"]
        subprocess.run(cargo, cwd=CRATE, check=True)
        program = CRATE / "target/debug/examples/journal_read"
        self._child = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(self, path: Path) -> dict[str, Any]:
        """What it finds on a device."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{path}\n")
        self._child.stdin.flush()
        answer: dict[str, Any] = json.loads(self._child.stdout.readline())
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._child:
            assert self._child.stdin is not None
            self._child.stdin.close()
            self._child.wait(_ANSWER_S)


def read_in_python(path: Path) -> dict[str, Any]:
    """What the reader in Python finds, as the other one says it."""
    with Device(path) as device:
        log = recover(device)
    if log.fault is not None:
        return {"reason": log.fault.reason}
    if log.superblock is None:
        return {"reason": "read_only"}  # blank, and not to be written
    last = newest(log)
    return {
        "reason": None,
        "entries": len(log.entries),
        "next_sequence": log.superblock.start_sequence + len(log.entries),
        "start": log.superblock.start,
        "tail": log.tail,
        "generation": last.generation,
        "promoted": last.promoted,
        "lease_until_us": last.lease_until_us,
        "last_digest": (log.frames[-1].digest if log.frames else log.superblock.start_chain).hex(),
    }


def devices(seed: int, count: int) -> Iterator[bytearray]:
    """Sound devices with a random history of frames."""
    for number in range(count):
        yield _device(Random(f"{seed} {number}"))


def _device(random: Random) -> bytearray:
    writer = StateWriter(size=SIZE + random.choice((0, 0, 1, BLOCK, 5000)))
    for _ in range(random.randint(0, 12)):
        start = writer.start_at_next()
        if random.random() < 0.15:
            pages = {random.randrange(1 << 20): random.randbytes(BLOCK) for _ in range(random.randint(0, 3))}
            writer.frame(writer.entry(Kind.IMAGE, image(pages, [random.randbytes(16)])))
            if random.random() < 0.7:
                writer.next_superblock(**start)
                writer.next_superblock()
            continue
        size = random.choice((0, 8, 100, 5000, 1 << 20 if random.random() < 0.3 else 4000))
        count = random.randint(1, 4)
        writer.frame(*(_entry(writer, random, place, size) for place in range(count)))
    return writer.data


def _entry(writer: StateWriter, random: Random, place: int, size: int) -> bytes:
    kind = random.choice((Kind.MUTATE, Kind.PROMOTE, Kind.RENEW))
    payload = random.randbytes(random.randint(0, size)) if kind == Kind.MUTATE else b""
    numbers = {name: random.getrandbits(64) for name in ("generation", "fingerprint", "promoted", "target")}
    return writer.entry(kind, payload, place=place, **numbers)


def damaged(data: bytearray, random: Random) -> bytearray:
    """The device with up to three kinds of damage: flipped bits, blocks of zeros, blocks moved, an end cut off."""
    end = max((place for place in range(0, len(data), BLOCK) if any(data[place : place + 8])), default=0) + 2 * BLOCK
    changed = bytearray(data)
    for _ in range(random.randint(0, 3)):
        choice, block = random.random(), BLOCK * random.randrange(end // BLOCK)
        if choice < 0.5:
            place = block + random.choice((random.randrange(200), random.randrange(BLOCK)))
            changed[min(place, len(changed) - 1)] ^= 1 << random.randrange(8)
        elif choice < 0.65:
            length = random.choice((512, BLOCK))
            changed[block : block + length] = bytes(len(changed[block : block + length]))
        elif choice < 0.85:
            other = BLOCK * random.randrange(end // BLOCK)
            changed[block : block + BLOCK] = data[other : other + BLOCK][: len(changed[block : block + BLOCK])]
        elif choice < 0.9:
            changed[:AREA_START] = bytes(AREA_START)
        elif choice < 0.93:
            del changed[random.randrange(len(changed)) :]
    return changed


def compare(rust: RustReader, path: Path, data: bytes | bytearray) -> str:
    """The reason that both give, "" if the device is taken. Raises AssertionError if they disagree."""
    path.write_bytes(data)
    return agreed(rust, path)["reason"] or ""


def agreed(rust: RustReader, path: Path) -> dict[str, Any]:
    """What both find on a device. Raises AssertionError if they disagree."""
    mine, other = read_in_python(path), rust.read(path)
    if mine != {name: other.get(name) for name in mine}:
        raise AssertionError(f"{path}: Python finds {str(mine)[:400]}, Rust {str(other)[:400]}")
    return mine


def run(seed: int, count: int, folder: Path) -> Counter[str]:
    """Compare on `count` damaged devices; how often each reason was given. A device on which they disagree stays."""
    counted: Counter[str] = Counter()
    with RustReader() as rust:
        for number, sound in enumerate(devices(seed, count)):
            counted[compare(rust, folder / "device.img", damaged(sound, Random(f"damage {seed} {number}")))] += 1
    return counted


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, and print how many devices of each kind there were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="readers-"))
    counted = run(arguments.seed, arguments.devices, folder)
    shutil.rmtree(folder)
    shown = ", ".join(f"{count} {reason or 'taken'}" for reason, count in sorted(counted.items()))
    sys.stdout.write(f"{arguments.devices} devices, seed {arguments.seed}: both readers agree: {shown}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
