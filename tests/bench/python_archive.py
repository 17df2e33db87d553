"""An initramfs whose PID 1 is a Python program: only the interpreter, the libraries and the modules it imports.

Everything keeps the path it has here, so that the interpreter finds its home. Libraries are stripped; modules are
compiled beforehand and marked as needing no check against their source, which the guest does not have. So the peer
starts as fast as it can.
"""

from __future__ import annotations

import json
import os
import py_compile
import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from initramfs import newc
from vboot.errors import ToolError
from vboot.programs import capture

_PROGRAM = Path(__file__).parent / "guest" / "python_init.py"
_SECONDS = 60.0
# Run without site and environment, as in the guest.
_OPTIONS = "-ISB"
_LIST_MODULES = """
import sys
sys.path.insert(0, sys.argv[1])
import python_init
files = {name: getattr(module.__spec__, "origin", None) for name, module in sys.modules.items() if module}
import json, os
print(json.dumps({"files": files, "landmark": os.__file__}))
"""


def python_records() -> list[newc.Record]:
    """The archive's entries, `init` among them; device nodes and kernel modules are not. Raises ToolError."""
    python = Path(os.path.realpath(sys.executable))
    command = [str(python), _OPTIONS, "-c", _LIST_MODULES, str(_PROGRAM.parent)]
    done = capture(command, phase="asking Python what the init imports", timeout_s=_SECONDS)
    if done.returncode:
        raise ToolError(
            "Python cannot import the init", command=command, returncode=done.returncode, stderr=done.stderr
        )
    answer = json.loads(done.stdout)
    landmark = Path(answer["landmark"])
    files = {Path(origin) for origin in answer["files"].values() if origin and Path(origin).is_absolute()}
    sources = {path for path in files if path.suffix == ".py"} - {_PROGRAM}
    extensions = {path for path in files if path.suffix == ".so"}
    binaries = sorted({python, *extensions, *_libraries([python, *extensions])})
    init = f"#!{python} {_OPTIONS}\nimport python_init\npython_init.main()\n"
    return [
        newc.file("init", init.encode(), mode=0o755),
        *[newc.file(_inside(path), _stripped(path), mode=0o755) for path in binaries],
        *[newc.file(_inside(path.with_suffix(".pyc")), _compiled(path)) for path in sorted(sources | {landmark})],
        newc.file(_inside(landmark.with_name("python_init.pyc")), _compiled(_PROGRAM)),
    ]


def parse_ldd(text: str) -> tuple[Path, ...]:
    """The files in what `ldd` prints: `name => /path (0x...)`, and `/path (0x...)` of the loader itself."""
    return tuple(Path(match) for match in re.findall(r"^\s+(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$", text, re.MULTILINE))


def _libraries(binaries: Iterable[Path]) -> set[Path]:
    found: set[Path] = set()
    for binary in binaries:
        command: Sequence[str] = ["ldd", str(binary)]
        found.update(parse_ldd(capture(command, phase="asking ldd for libraries", timeout_s=_SECONDS).stdout))
    return found


def _stripped(binary: Path) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "stripped")
        command = ["strip", "--strip-unneeded", "-o", str(target), str(binary)]
        done = capture(command, phase="stripping a library", timeout_s=_SECONDS, remedy="install binutils")
        if done.returncode:
            what = f"strip refuses {binary.name}"
            raise ToolError(what, command=command, returncode=done.returncode, stderr=done.stderr)
        return target.read_bytes()


def _compiled(source: Path) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "module.pyc")
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(source), str(target), doraise=True, invalidation_mode=mode)
        return target.read_bytes()


def _inside(path: Path) -> str:
    """Its place in the archive: the same, without the leading slash."""
    return str(path).lstrip("/")
