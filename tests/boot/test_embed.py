"""Embeddings of the booted machine: the same as those of the same executable on this host, to the bit.

The emulated processor has AVX2, this host perhaps wider instructions, and the texts are shared by other threads there.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from qemu.launch import start
from tests.boot.conftest import Image
from tests.support.local_machine import local_machine
from vboot.client.machine import connect
from vboot.weights.edits import Seeded

TEXTS = ("A cat sleeps on the warm sofa.", "The central bank raised interest rates, again!", "x", "")
NOISE = Seeded("blk.*.weight", seed="00c0ffee00c0ffee", form="normal", density=1.0, scale=1e-2)


@pytest.mark.parametrize("model", ["tiny", "minilm"])
def test_embeddings_are_those_of_this_host(request: pytest.FixtureRequest, tmp_path: Path, model: str) -> None:
    image: Image = request.getfixturevalue(model)
    with (
        start(image.spec()) as virtual,
        connect(virtual.evolution, timeout=300, check=virtual.check) as booted,
        local_machine(tmp_path, model=image.folder / "vectorland.gguf") as local,
        connect(local.socket) as native,
    ):
        assert {"avx2", "fma"} <= set(booted.stats().cpu_features)
        for normalize in (True, False):
            there, here = (machine.embed(TEXTS, normalize=normalize) for machine in (booted, native))
            assert (there.tokens, there.generation) == (here.tokens, here.generation)
            assert there.vectors.tobytes() == here.vectors.tobytes()
        for machine in (booted, native):
            machine.mutate([NOISE], confidence=0.9)
        changed = [machine.embed(TEXTS) for machine in (booted, native)]
        assert changed[0].vectors.tobytes() == changed[1].vectors.tobytes() != here.vectors.tobytes()
        assert [machine.stats().worker.restarts for machine in (booted, native)] == [0, 0]
        booted.shutdown()
        assert virtual.wait_exit() == 0
