"""The programs that ours is compared with, each in its own environment below build/peers.

An environment is made when it is missing or other packages are pinned since; llama.cpp is compiled for the processor
of this machine, which takes some minutes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.host import REPOSITORY
from tests.bench.results import Setting
from vboot.errors import ToolError, VbootError
from vboot.programs import run_logged

_HERE = Path(__file__).parent
_ENVIRONMENTS = REPOSITORY / "build" / "peers"
_INSTALL_SECONDS = 3600.0
_PIP = ("-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps", "--require-hashes")


@dataclass(frozen=True)
class _Step:
    """One run of pip: the file of pinned packages, and how they are installed."""

    pins: Path
    options: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


_WHEELS = ("--only-binary", ":all:")
_STEPS: Mapping[str, Sequence[_Step]] = {
    "lmdb": (_Step(_HERE / "peers.lmdb.txt", _WHEELS),),
    "onnxruntime": (_Step(_HERE / "peers.onnxruntime.txt", _WHEELS),),
    "llama_cpp": (
        _Step(_HERE / "peers.llama_cpp_needs.txt", _WHEELS),
        _Step(
            _HERE / "peers.llama_cpp.txt",
            # Without the cache: a wheel found there may have been compiled for another processor.
            ("--no-build-isolation", "--no-cache-dir"),
            {
                "CMAKE_ARGS": "-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DMTMD_BUILD=OFF -DLLAVA_BUILD=OFF",
                "CMAKE_BUILD_PARALLEL_LEVEL": "2",
            },
        ),
    ),
}


def find_peer(name: str, setting: Setting) -> Path | None:
    """The Python that has the peer "lmdb", "onnxruntime" or "llama_cpp".

    None, with the reason said, when it cannot be had. A quick run builds nothing.
    """
    folder = _ENVIRONMENTS / name
    python = folder / "bin" / "python"
    stamp = folder / "pins.sha256"
    pins = hashlib.sha256(b"".join(step.pins.read_bytes() for step in _STEPS[name])).hexdigest()
    if stamp.is_file() and stamp.read_text() == pins:
        return python
    if setting.quick:
        setting.say(f"without {name}: a run without --quick installs it")
        return None
    try:
        _install(name, folder, python, setting)
    except VbootError as error:
        setting.say(f"without {name}: {error}")
        return None
    stamp.write_text(pins)
    return python


def versions(name: str) -> dict[str, str]:
    """The pinned version of a peer's own package."""
    pinned = _STEPS[name][-1].pins.read_text().split()
    package = name.replace("_cpp", "-cpp-python")
    return {package: next(word.partition("==")[2] for word in pinned if word.startswith(f"{package}=="))}


def _install(name: str, folder: Path, python: Path, setting: Setting) -> None:
    setting.say(f"installing {name} (once; llama.cpp is compiled, which takes some minutes)")
    log = _ENVIRONMENTS / f"{name}.log"
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "venv", str(folder)], log=log, environment={})
        for step in _STEPS[name]:
            command = [str(python), *_PIP, *step.options, "-r", str(step.pins)]
            _run(command, log=log, environment=step.environment)
    except OSError as error:
        raise ToolError(f"{folder} cannot be made: {error.strerror}", command=[name]) from error


def _run(command: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> None:
    run_logged(
        command,
        phase="installing a peer",
        timeout_s=_INSTALL_SECONDS,
        log=log,
        folder=REPOSITORY,
        environment={**os.environ, **environment},
        on_line=lambda _line: None,
    )
