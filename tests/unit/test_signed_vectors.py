"""The shared vectors of signed changes are those that their generator writes; the Rust tests read the same file."""

from __future__ import annotations

from tests.support.signed_vectors import VECTORS, rendered


def test_the_vectors_are_up_to_date() -> None:
    assert VECTORS.read_text("utf-8") == rendered(), "run .venv/bin/python -m tests.support.signed_vectors"
