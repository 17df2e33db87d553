"""Talks to a running machine: reads its state, embeds, changes weights on trial, keeps the change, takes it back.

    python examples/talk_to_machine.py SOCKET

SOCKET is the machine's evolution port: a path given to `vector_boot --listen`, or `evolution` of `vboot boot --json`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from vboot.client.machine import connect
from vboot.weights.edits import Seeded

TEXTS = ("the cat sat on the mat", "a kitten lay on a rug")


def main(socket: Path) -> None:
    """Print what happens, one line for each step."""
    with connect(socket, client="example") as machine:
        hello = machine.hello()
        print(f"version {hello.version}, generation {hello.generation}, {machine.stats().heartbeats} heartbeats")

        before = machine.digest(["token_embd_norm.weight"])
        vectors = machine.embed(TEXTS).vectors
        print(f"similarity before: {float(vectors[0] @ vectors[1]):.4f}")

        # Noise that the machine makes itself from the seed, on every norm of the model. The change is on trial: the
        # machine takes it back after 30 seconds unless it is promoted.
        noise = Seeded(tensors="*norm.weight", seed="00c0ffee00c0ffee", form="normal", density=1.0, scale=0.01)
        mutation = machine.mutate([noise], confidence=0.9, origin="example", lease_ms=30_000)
        print(f"generation {mutation.generation}: {mutation.changed.bytes} bytes changed")

        vectors = machine.embed(TEXTS).vectors
        print(f"similarity after: {float(vectors[0] @ vectors[1]):.4f}")
        machine.promote(mutation.generation)

        rollback = machine.rollback(hello.generation, reason="end of the example")
        after = machine.digest(["token_embd_norm.weight"])
        print(f"generation {rollback.generation}: as before to the bit: {after.model == before.model}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: talk_to_machine.py SOCKET")
    main(Path(sys.argv[1]))
