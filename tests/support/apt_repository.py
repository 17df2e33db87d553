"""A package archive in a folder, for the real apt: the kernel's path from meta package to file, without a network."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping
from pathlib import Path


class AptRepository:
    """Publishes .deb files below `folder`; `environment` points apt to it alone."""

    def __init__(self, folder: Path) -> None:
        self._packages = folder / "repository"
        self._packages.mkdir(parents=True)
        self._lists = folder / "lists"
        for path in (self._lists / "partial", folder / "cache/archives/partial", folder / "none"):
            path.mkdir(parents=True)
        (folder / "sources.list").write_text(f"deb [trusted=yes] copy:{self._packages} ./\n")
        settings = {
            "Dir::State::lists": self._lists,
            "Dir::State::status": "/dev/null",
            "Dir::Cache": folder / "cache",
            "Dir::Etc::sourcelist": folder / "sources.list",
            "Dir::Etc::sourceparts": folder / "none",
            "Dir::Etc::preferencesparts": folder / "none",
            "APT::Architecture": "amd64",
            # The folders of a test belong to one user.
            "APT::Sandbox::User": "root",
        }
        configuration = folder / "apt.conf"
        configuration.write_text("".join(f'{key} "{value}";\n' for key, value in settings.items()))
        self.environment = {"APT_CONFIG": str(configuration)}
        self._index = ""

    def publish(self, name: str, version: str, *, depends: str = "", files: Mapping[str, bytes] | None = None) -> Path:
        """Add a package with these files; its .deb."""
        tree = self._packages.parent / "tree" / f"{name}_{version}"
        for path, data in (files or {}).items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(data)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: T <t@example.org>\n"
        control += f"Depends: {depends}\n" if depends else ""
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(f"{control}Description: test\n")
        deb = self._packages / f"{name}_{version}_amd64.deb"
        subprocess.run(["dpkg-deb", "--build", "-Znone", str(tree), str(deb)], check=True, capture_output=True)
        data = deb.read_bytes()
        self._index += f"{control}Filename: ./{deb.name}\nSize: {len(data)}\n"
        self._index += f"SHA256: {hashlib.sha256(data).hexdigest()}\nDescription: test\n\n"
        return deb

    def update(self) -> None:
        """Let apt read the index, as `apt-get update` does."""
        (self._packages / "Packages").write_text(self._index)
        subprocess.run(["apt-get", "update"], check=True, capture_output=True, env={**self.environment, "PATH": PATH})


PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
