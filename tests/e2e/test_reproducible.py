"""The same image, to the byte, from a copy of the sources elsewhere, by another user on another day."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.reproducible import compare
from cli import main


def test_a_second_build_elsewhere_gives_the_same_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "image"
    assert main(["--json", "build", "--model", "tiny", "--output", str(image), "--check-reproducible"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["reproducible"] is True
    assert answer["differences"] == []

    other = tmp_path / "other"
    assert main(["build", "--model", "tiny", "--type", "F32", "--output", str(other)]) == 0
    assert {pair.name for pair in compare(image, other)} == {
        "vectorland.gguf", "vector_boot.rts", "sbom.cdx.json", "manifest.json",
    }  # fmt: skip
