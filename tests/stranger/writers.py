"""Writes composed GGUF files, the model tiny and RTS images, by the pages of `spec/` and the tables beside them."""

from __future__ import annotations

import hashlib
import struct
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

SPEC = Path(__file__).resolve().parents[2] / "spec"
ALIGNMENT = 4096
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
TYPES = {"F32": (0, 0, np.dtype("<f4")), "F16": (1, 1, np.dtype("<f2"))}
"""By name: id of the tensor type, `general.file_type`, numpy's type."""
SPECIAL = {
    "bos": "[CLS]", "eos": "[SEP]", "unknown": "[UNK]", "seperator": "[SEP]", "padding": "[PAD]", "mask": "[MASK]",
}  # fmt: skip

Entry = tuple[str, bytes]
Tensor = tuple[str, tuple[int, ...], int, bytes]
"""Name, dimensions with the row length first, type id, bytes."""


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def u32(key: str, value: int) -> Entry:
    return key, struct.pack("<II", U32, value)


def string(key: str, value: str) -> Entry:
    return key, struct.pack("<I", STRING) + text(value)


def boolean(key: str, value: bool) -> Entry:
    return key, struct.pack("<IB", BOOL, value)


def gguf_file(entries: Sequence[Entry], tensors: Sequence[Tensor]) -> bytes:
    """A file of version 3 with alignment 4096, the last tensor padded too."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(entries))
    head += b"".join(text(key) + value for key, value in entries)
    data = b""
    for name, dims, kind, raw in tensors:
        head += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, len(data))
        data += padded(raw)
    return padded(head) + data


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)


def machine_tensors() -> Iterator[Tensor]:
    """machine-tensors.md, in the order of its table."""
    words = np.zeros(1024, "<u4")
    for entry in tomllib.loads((SPEC / "hw_mmio.toml").read_text("utf-8"))["entry"]:
        first = entry["word"]
        words[first : first + entry.get("words", 1)] = entry.get("initial", 0) & 0xFFFFFFFF
    yield "hw.mmio", (1024,), 26, words.tobytes()
    yield "cortex_journal", (1 << 20,), 24, struct.pack("<4sIQ", b"CJ01", 64, 0).ljust(1 << 20, b"\0")
    lines = [line for line in (SPEC / "kernels.txt").read_text("utf-8").splitlines() if not line.startswith("#")]
    for slot, line in enumerate(lines):
        pixels = bytes.fromhex(line.partition(":")[2])
        yield f"kernel.{slot}", (4096,), 24, (struct.pack("<I", len(pixels) // 3) + pixels).ljust(4096, b"\0")
    for slot in range(8):
        yield f"evolved.{slot}", (4096,), 24, bytes(4096)


def composed_tiny(kind: str) -> bytes:
    """The composed file of the model tiny with its matrices in F32 or F16: tiny-model.md, then machine-tensors.md."""
    vocabulary = (SPEC / "tiny_vocab.txt").read_text("ascii").splitlines()
    entries = [*_tiny_metadata(kind, vocabulary), u32("vector_boot.layout", 1), u32("general.alignment", ALIGNMENT)]
    tensors = [_tiny_tensor(name, shape, scale, kind) for name, shape, scale in _tiny_shapes(len(vocabulary))]
    return gguf_file(entries, [*tensors, *machine_tensors()])


def _tiny_metadata(kind: str, vocabulary: Sequence[str]) -> list[Entry]:
    special = set(SPECIAL.values())
    pieces = [
        piece if piece in special else piece.removeprefix("##") if piece.startswith("##") else "\u2581" + piece
        for piece in vocabulary
    ]
    types = [3 if piece in special else 1 for piece in vocabulary]
    return [
        string("general.architecture", "bert"),
        string("general.type", "model"),
        string("general.name", "vector_boot tiny"),
        string("general.license", "Apache-2.0"),
        u32("general.file_type", TYPES[kind][1]),
        u32("general.quantization_version", 2),
        u32("bert.block_count", 2),
        u32("bert.context_length", 128),
        u32("bert.embedding_length", 64),
        u32("bert.feed_forward_length", 128),
        u32("bert.attention.head_count", 4),
        ("bert.attention.layer_norm_epsilon", struct.pack("<If", F32, 1e-12)),
        boolean("bert.attention.causal", False),
        u32("bert.pooling_type", 1),
        string("tokenizer.ggml.model", "bert"),
        string("tokenizer.ggml.pre", "jina-v2-en"),
        u32("tokenizer.ggml.token_type_count", 2),
        ("tokenizer.ggml.tokens", struct.pack("<IIQ", ARRAY, STRING, len(pieces)) + b"".join(map(text, pieces))),
        ("tokenizer.ggml.token_type", struct.pack(f"<IIQ{len(types)}i", ARRAY, I32, len(types), *types)),
        *(u32(f"tokenizer.ggml.{role}_token_id", vocabulary.index(piece)) for role, piece in SPECIAL.items()),
        boolean("tokenizer.ggml.add_bos_token", True),
        boolean("tokenizer.ggml.add_eos_token", True),
        boolean("tokenizer.ggml.add_sep_token", False),
    ]


def _tiny_shapes(tokens: int) -> Iterator[tuple[str, tuple[int, ...], float]]:
    """Name, rows and columns, scale."""
    yield "token_embd.weight", (tokens, 64), 1
    yield "position_embd.weight", (128, 64), 1 / 8
    yield "token_types.weight", (2, 64), 1 / 8
    yield from _pair("token_embd_norm", (64,), 1 / 16)
    for block in range(2):
        linear = {
            "attn_q": ((64, 64), 1 / 4), "attn_k": ((64, 64), 1 / 4), "attn_v": ((64, 64), 1 / 8),
            "attn_output": ((64, 64), 1 / 8), "ffn_up": ((128, 64), 1 / 8), "ffn_down": ((64, 128), 1 / 8),
            "attn_output_norm": ((64,), 1 / 16), "layer_output_norm": ((64,), 1 / 16),
        }  # fmt: skip
        for part, (shape, scale) in linear.items():
            yield from _pair(f"blk.{block}.{part}", shape, scale)


def _pair(stem: str, shape: tuple[int, ...], scale: float) -> Iterator[tuple[str, tuple[int, ...], float]]:
    yield f"{stem}.weight", shape, scale
    yield f"{stem}.bias", shape[:1], 1 / 16


def _tiny_tensor(name: str, shape: tuple[int, ...], scale: float, kind: str) -> Tensor:
    digest = hashlib.sha256(b"vb1" + b"vb-tiny1" + name.encode()).digest()
    words = np.random.Philox(key=np.frombuffer(digest[:16], "<u8")).random_raw(int(np.prod(shape)))
    ones = np.bitwise_count(words >> np.uint64(32)).astype(np.float64)
    values = (1 if name.endswith("norm.weight") else 0) + (ones - 16) / 4 * scale
    stored = "F32" if len(shape) == 1 or name in ("position_embd.weight", "token_types.weight") else kind
    return name, shape[::-1], TYPES[stored][0], values.astype(TYPES[stored][2]).tobytes()


def rts_file(executable: bytes, model: bytes) -> bytes:
    """An unsigned image: rts.md."""
    binary = executable + bytes(-(512 + len(executable)) % 4096)
    head = struct.pack(">4sIQQQQ", b"RTS\x01", 1, 512, len(binary), 512 + len(binary), len(model))
    head += hashlib.sha256(binary).digest() + hashlib.sha256(model).digest()
    return head.ljust(512, b"\0") + binary + model
