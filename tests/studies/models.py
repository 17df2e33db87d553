"""Shared by the studies: the real model in a storage type, and the data."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evolution.fitness import debian
from evolution.fitness.contract import Dataset
from evolution.fitness.split import split
from vboot.client.bridge import RustNeuralBridge
from vboot.client.machine import MachineClient

FOLDER = Path("build/studies")


def model_file(weights: str) -> Path:
    """MiniLM with weights of this type, composed once."""
    path = FOLDER / f"minilm-{weights.lower()}.gguf"
    if not path.is_file():
        FOLDER.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "builder", "compose", "--model", "minilm", "--type", weights, "-o", str(path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


def data_set(lists: Path = debian.APT_LISTS) -> Dataset:
    """The pairs of Debian's package descriptions on this host."""
    return split(debian.read_pairs(lists), source=debian.SOURCE)


@contextmanager
def shadow(model: Path) -> Iterator[MachineClient]:
    """A new runtime with a model, without a limit on energy."""
    with RustNeuralBridge(energy=False) as bridge:
        bridge.initialize(model)
        with bridge.client(timeout=300) as machine:
            yield machine
