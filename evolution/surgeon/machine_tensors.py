"""The tensors that every machine has beside those of its model, and the digest of a model. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from vboot.protocol import tables

MACHINE_TENSORS = frozenset(tensor.name for tensor in tables.MACHINE_TENSORS)
"""The tensors that a composed file has beside those of its model."""

PROTECTED = tables.PROTECTED_TENSORS
"""The tensors that no operation may change: the machine's own state and its built-in programs."""

SLOTS = MACHINE_TENSORS - PROTECTED
"""Slots for evolved programs. A machine whose file lacks them starts with empty ones."""

EMPTY_SLOT_SHA256 = hashlib.sha256(bytes(4096)).hexdigest()


def model_sha256(tensors: Mapping[str, str]) -> str:
    """The digest (hex) that a machine would give a model, from the SHA-256 (hex) of its tensors.

    SHA-256 over all unprotected tensors in name order of: name, byte 0, SHA-256 of the bytes (spec/machine-tensors.md).
    """
    digests = dict.fromkeys(SLOTS, EMPTY_SLOT_SHA256) | dict(tensors)
    digest = hashlib.sha256()
    for name in sorted(digests.keys() - PROTECTED):
        digest.update(name.encode() + b"\0" + bytes.fromhex(digests[name]))
    return digest.hexdigest()
