"""Writes the vectors of the unit tests of `element` and `mutation`, beside this file, in `vectors/`.

What others compute is the oracle: the `gguf` package decodes and encodes blocks, numpy draws the Philox words,
`fnmatch` matches names. The files are committed; run this again only to add cases.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from numpy.typing import NDArray

VECTORS = Path(__file__).parent / "vectors"
DECODED = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
# Positions of the f16 numbers in front of a block.
HALVES = {"Q8_0": 1, "Q4_0": 1, "Q5_0": 1, "Q4_1": 2, "Q5_1": 2}
# Types with f16 scales, somewhere in the block.
SCALED = """
    Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K
    IQ1_S IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ4_NL IQ4_XS TQ1_0 TQ2_0
"""


def decoded(name: str, rng: np.random.Generator) -> dict[str, str]:
    """Random finite blocks of one type, and their values as little-endian f32."""
    kind = GGMLQuantizationType[name]
    elements, size = GGML_QUANT_SIZES[kind]
    blocks: NDArray[np.uint8] = rng.integers(0, 256, (6 if elements > 1 else 64, size), dtype=np.uint8)
    for half in range(HALVES.get(name, 0)):
        # Of any size, subnormal and negative ones too, none infinite.
        scales = rng.integers(0, 0x7C00, len(blocks), dtype=np.uint16) | (
            rng.integers(0, 2, len(blocks), dtype=np.uint16) << np.uint16(15)
        )
        blocks[:, 2 * half : 2 * half + 2] = scales.view(np.uint8).reshape(-1, 2)
    if elements == 1:
        values = quants.dequantize(blocks.reshape(-1), kind)
        blocks = blocks[np.isfinite(values)]
    values = quants.dequantize(blocks.reshape(-1), kind)
    return {"blocks": blocks.tobytes().hex(), "values": values.astype("<f4").tobytes().hex()}


def encoded_q8_0(rng: np.random.Generator) -> dict[str, str]:
    """Values of several magnitudes, with ties and an empty block, and the Q8_0 blocks of them."""
    rows: list[NDArray[np.floating[Any]]] = [
        rng.standard_normal(32) * 10.0**power for power in (-30, -9, -7, -4, 0, 3, 6)
    ]
    rows.append(np.zeros(32))
    rows.append(-np.arange(32) - 0.5)
    rows[-1][0] = 127.0
    rows.append(np.arange(32) / 2 - 8)
    rows[-1][0] = -127.0
    values = np.array(rows, np.float32)
    blocks = quants.quantize(values, GGMLQuantizationType.Q8_0)
    return {"blocks": blocks.tobytes().hex(), "values": values.astype("<f4").tobytes().hex()}


def noise(seed: int, tensor: str, first: int, count: int) -> dict[str, Any]:
    """Words of numpy's Philox with the key of a seed and a tensor."""
    text = f"{seed:016x}"
    digest = hashlib.sha256(b"vb1" + bytes.fromhex(text) + tensor.encode()).digest()
    key = np.frombuffer(digest[:16], "<u8")
    generator = np.random.Philox(key=key)
    generator.advance(first // 4)
    words = generator.random_raw(first % 4 + count)[first % 4 :]
    return {"seed": text, "tensor": tensor, "first": first, "words": [f"{word:016x}" for word in words]}


def globs(rng: random.Random) -> list[list[Any]]:
    """Patterns, names, and whether Python matches them; half of each outcome."""
    patterns = ["blk.*.weight", "*", "?", "[]]", "[!]]", "[", "[!", "[]", "[a", "[a-]", "[--a]", "[z-a]", "[!z-a]"]
    patterns += ["[z-a!b]", "[z-a!-c]", "[a-c-e]", "[^a]", "[!^a]", "[a&&b]", "[[]", "\\", "[\\]", "**a**", "", "é?"]
    names = ["", "a", "b", "-", "]", "[", "!", "^", "\\", "&", "blk.0.weight", "blk.0.bias", "éb", "é\n", "[a", "c"]
    kept: dict[bool, list[list[Any]]] = {True: [], False: []}
    for _ in range(40_000):
        patterns.append("".join(rng.choices("aabbcz.-[[]]!!*?^", k=rng.randrange(1, 9))))
    for pattern in patterns[:24]:
        for name in names:
            kept[fnmatch.fnmatchcase(name, pattern)].append([pattern, name])
    for pattern in patterns[24:]:
        name = "".join(rng.choices("abcz.-[]!^", k=rng.randrange(0, 4)))
        outcome = fnmatch.fnmatchcase(name, pattern)
        if len(kept[outcome]) < 500 and "[" in pattern:
            kept[outcome].append([pattern, name])
    return [[*case, outcome] for outcome, cases in kept.items() for case in cases]


def is_finite(kind: GGMLQuantizationType, block: NDArray[np.uint8]) -> bool:
    """Whether all elements of a block are, as the `gguf` package decodes it."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(quants.dequantize(block, kind)).all())


def scale_places(kind: GGMLQuantizationType) -> list[int]:
    """The even offsets at which an infinite f16 makes a block of zeros not finite."""
    size = GGML_QUANT_SIZES[kind][1]
    places = []
    for at in range(0, size - 1, 2):
        block = np.zeros(size, np.uint8)
        block[at + 1] = 0x7C
        if not is_finite(kind, block):
            places.append(at)
    return places


def iq1_m_blocks(rng: np.random.Generator) -> list[list[Any]]:
    """The last 8 bytes of IQ1_M blocks, where its scattered scale is, and whether they are finite."""
    cases = []
    for exponents in range(8):
        block = np.zeros(56, np.uint8)
        block[48:] = rng.integers(0, 256, 8, dtype=np.uint8)
        block[48:] |= np.array([0, 0, 0, 0, 0, 0xC0, 0, 0x70], np.uint8) * np.uint8(exponents % 2)
        cases.append([block[48:].tobytes().hex(), is_finite(GGMLQuantizationType.IQ1_M, block)])
    return cases


def main() -> None:
    """Writes all files."""
    VECTORS.mkdir(exist_ok=True)
    rng = np.random.default_rng(4)
    files = {
        "element": {
            "decoded": {name: decoded(name, rng) for name in DECODED},
            "encoded": {"Q8_0": encoded_q8_0(rng)},
        },
        "finite": {
            "scales": {name: scale_places(GGMLQuantizationType[name]) for name in SCALED.split()},
            "iq1_m": iq1_m_blocks(rng),
        },
        "noise": [
            noise(0, "token_embd.weight", 0, 12),
            noise(0x0123456789ABCDEF, "blk.0.attn_q.weight", 5, 9),
            noise(2**64 - 1, "é", 2**53 + 3, 6),
        ],
        "glob": globs(random.Random(4)),
    }
    for name, content in files.items():
        lines = json.dumps(content, indent=None, separators=(",", ":")).replace("],[", "],\n[")
        (VECTORS / f"{name}.json").write_text(lines + "\n")


if __name__ == "__main__":
    main()
