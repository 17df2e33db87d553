"""CRC-32C (Castagnoli polynomial, reflected, as in RFC 3720 B.4), vectorised. Pure.

Without its conditioning a CRC is linear over GF(2): with W(w) = w for a little-endian 32-bit word and
W(A || B) = shift(W(A), bytes of B) ^ W(B), where shift(x, n) runs the register x over n zero bytes, the register after
the words A is shift(W(A), 4). So all pairs of words are combined at once, then all pairs of pairs, and so on; zeros in
front change nothing. `shift` by 2^k bytes is a table look-up for each of the four bytes of x.
"""

from __future__ import annotations

from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78
_ONES = 0xFFFFFFFF
_WORD_LEVEL = 2  # 2^2 bytes in a word

Words: TypeAlias = NDArray[np.uint32]


def crc32c(data: bytes) -> int:
    """The CRC-32C of `data`, as an unsigned 32-bit integer; of b"123456789" it is 0xE3069283."""
    # The register starts with all ones, which `data` then shifts along like a message of its own.
    register = np.array([_ONES], np.uint32)
    for level in range(len(data).bit_length()):
        if len(data) >> level & 1:
            register = _shift(register, level)
    return int(register[0]) ^ _raw(data) ^ _ONES


def _raw(data: bytes) -> int:
    """The register after `data` when it starts with zero."""
    count = 1 << max(0, (-(-len(data) // 4) - 1)).bit_length()
    words = np.frombuffer(data.rjust(4 * count, b"\0"), "<u4").astype(np.uint32, copy=False)
    level = _WORD_LEVEL
    while len(words) > 1:
        words = _shift(words[0::2], level) ^ words[1::2]
        level += 1
    return int(_shift(words, _WORD_LEVEL)[0])


def _shift(registers: Words, level: int) -> Words:
    """Each register run over 2^level zero bytes."""
    table = _table(level)
    shifted: Words = (
        table[0][registers & 0xFF]
        ^ table[1][registers >> 8 & 0xFF]
        ^ table[2][registers >> 16 & 0xFF]
        ^ table[3][registers >> 24]
    )
    return shifted


@cache
def _table(level: int) -> Words:
    """[4, 256]: byte j of a register, with value v, becomes [j, v] over 2^level zero bytes."""
    bytes_of_register = np.arange(256, dtype=np.uint32) << np.arange(0, 32, 8, dtype=np.uint32)[:, None]
    if level > 0:
        return _shift(_shift(bytes_of_register, level - 1), level - 1)
    registers = bytes_of_register
    for _ in range(8):
        registers = np.where(registers & 1, registers >> 1 ^ np.uint32(_POLYNOMIAL), registers >> 1)
    return registers
