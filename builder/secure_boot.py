"""Signs EFI programs for Secure Boot, by sbsign."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vboot.errors import InputError, ToolError
from vboot.keys import SECURE_BOOT_CERTIFICATE, SECURE_BOOT_KEY
from vboot.text import path_text

_SECONDS = 120


@dataclass(frozen=True)
class SecureBootKey:
    """A private key and its certificate, in PEM."""

    key: Path
    certificate: Path

    @staticmethod
    def of_folder(folder: Path) -> SecureBootKey:
        """The pair that `vboot keygen --secure-boot` writes. Raises InputError if a file is missing."""
        pair = SecureBootKey(folder / SECURE_BOOT_KEY, folder / SECURE_BOOT_CERTIFICATE)
        for path in (pair.key, pair.certificate):
            if not path.is_file():
                what = f"{path_text(folder)} has no {path.name}, with which boot images are signed"
                raise InputError(what, remedy=f"make the keys with `vboot keygen --secure-boot {path_text(folder)}`")
        return pair

    @property
    def files(self) -> tuple[Path, Path]:
        """Both files."""
        return self.key, self.certificate

    def sign(self, program: bytes) -> bytes:
        """The EFI program with a signature, which holds the time: the same program gives other bytes each time.

        Raises ToolError if sbsign is missing or fails.
        """
        with tempfile.TemporaryDirectory(prefix="vboot-sign-") as folder:
            unsigned, signed = Path(folder, "unsigned.efi"), Path(folder, "signed.efi")
            unsigned.write_bytes(program)
            words = ["--key", str(self.key), "--cert", str(self.certificate), "--output", str(signed), str(unsigned)]
            command = ["sbsign", *words]
            try:
                done = subprocess.run(
                    command, capture_output=True, timeout=_SECONDS, stdin=subprocess.DEVNULL, check=False
                )
            except (OSError, subprocess.SubprocessError) as error:
                remedy = "install it with `make deps` (Debian: sbsigntool)"
                raise ToolError(f"sbsign does not run ({error})", command=command, remedy=remedy) from error
            if done.returncode or not signed.is_file():
                said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
                what = f"sbsign signed nothing with {path_text(self.key)}: {said}"
                raise ToolError(what, command=command, returncode=done.returncode)
            return signed.read_bytes()
