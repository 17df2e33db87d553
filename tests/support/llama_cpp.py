"""llama.cpp's own loader, compiled by others: `python -m tests.support.llama_cpp FOLDER MODEL` loads a model with it.

The libraries come from the npm package @node-llama-cpp/linux-x64: 10.8 MB, pinned by its SHA-256, kept in the user's
cache. They are read with ctypes, so neither node nor npm is needed.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path, PurePosixPath

import pytest

from image.minilm import user_cache

_VERSION = "3.22.1"
_URL = f"https://registry.npmjs.org/@node-llama-cpp/linux-x64/-/linux-x64-{_VERSION}.tgz"
_SHA256 = "0d953e1503d5ab4608d8ed5b739132308c81ac05ffeb760d2a7f30e08a9f90e0"
_DOWNLOAD_TIMEOUT_S = 120
_LLAMA, _GGML = "libllama.v0.5.0.so", "libggml.v0.5.0.so"


class _Params(ctypes.Structure):
    """`struct llama_model_params` as llama.cpp makes it, with room for more members than it has."""

    _fields_ = [("members", ctypes.c_byte * 1024)]


def load(model: Path) -> tuple[int, int]:
    """How many parameters, and which embedding width, llama.cpp finds in a model.

    Skips the test where the libraries cannot be had. Raises AssertionError with llama.cpp's reason when it refuses.
    """
    command = [sys.executable, "-m", "tests.support.llama_cpp", str(_libraries()), str(model)]
    child = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if child.returncode:
        raise AssertionError(f"llama.cpp refuses {model}: {child.stderr.strip()[-2000:]}")
    parameters, width = child.stdout.split()
    return int(parameters), int(width)


def _libraries() -> Path:
    """The folder of the libraries, downloaded once for this user."""
    if platform.machine() != "x86_64":
        pytest.skip("the prebuilt llama.cpp is for x86_64")
    folder = user_cache() / f"node-llama-cpp-{_VERSION}"
    if not folder.is_dir():
        try:
            with urllib.request.urlopen(_URL, timeout=_DOWNLOAD_TIMEOUT_S) as reply:
                archive = reply.read()
        except OSError as error:
            pytest.skip(f"the npm registry cannot be reached: {error}")
        assert hashlib.sha256(archive).hexdigest() == _SHA256, f"{_URL} is not the pinned archive"
        _unpack(archive, folder)
    return folder


def _unpack(archive: bytes, folder: Path) -> None:
    """Put the libraries into the folder, which appears whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpack-") as temporary:
        whole = Path(temporary) / "libraries"
        whole.mkdir()
        with tarfile.open(fileobj=io.BytesIO(archive)) as members:
            for member in members:
                if member.name.endswith(".so") and (content := members.extractfile(member)) is not None:
                    (whole / PurePosixPath(member.name).name).write_bytes(content.read())
        try:
            whole.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another test run was faster
                raise


def _main(folder: Path, model: Path) -> None:
    ggml = ctypes.CDLL(str(folder / _GGML))
    llama = ctypes.CDLL(str(folder / _LLAMA))
    ggml.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
    ggml.ggml_backend_load_all_from_path(os.fsencode(folder))
    llama.llama_model_default_params.restype = _Params
    llama.llama_model_load_from_file.argtypes = [ctypes.c_char_p, _Params]
    llama.llama_model_load_from_file.restype = ctypes.c_void_p
    llama.llama_model_n_params.argtypes = llama.llama_model_n_embd.argtypes = [ctypes.c_void_p]
    llama.llama_model_n_params.restype = ctypes.c_uint64
    loaded = llama.llama_model_load_from_file(os.fsencode(model), llama.llama_model_default_params())
    if not loaded:
        sys.exit("the model was not loaded")
    print(llama.llama_model_n_params(loaded), llama.llama_model_n_embd(loaded))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
