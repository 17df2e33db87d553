"""What the tests of `vboot evolve` share: pairs, and arguments that make little work."""

from __future__ import annotations

import json
from pathlib import Path

WORDS = ("storm", "ship", "river", "mirror", "forest", "engine", "lantern", "bridge", "valley", "winter", "copper")
FEW = ("--tier", "output", "--batch", "4", "--generations", "2", "--watch", "2")
ES = ("--option", "pairs=2")
NONE = ("--generations", "0")


def write_pairs(path: Path) -> Path:
    """Write 160 pairs, in each of whose documents two words of the query stand."""
    lines = []
    for number in range(160):
        first, second = WORDS[number % 11], WORDS[(number // 11 + number) % 11]
        pair = {"query": f"{first} {second} {number}", "document": f"the {second} of {number} and its {first}"}
        lines.append(json.dumps(pair))
    path.write_text("\n".join(lines))
    return path
