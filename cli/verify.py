"""`vboot verify`: both readers, the digests, the signature and the manifest must agree with a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from builder.cache import hash_file
from builder.disk_steps import DISK_NAME
from builder.integrity import check_image
from builder.manifest import NAME as MANIFEST_NAME
from builder.manifest import parse_outputs
from builder.plan import RTS_NAME
from cli.answer import Answer
from cli.disk_answers import is_disk, verify_disk
from cli.option_types import path
from cli.progress import reported
from cli.rust_reader import rust_reader
from image.rts_file import verify_rts
from vboot.check import check_file
from vboot.errors import InputError
from vboot.keys import load_public_key
from vboot.text import path_text

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "file",
        type=path,
        metavar="FILE",
        help="an RTS or GGUF file, the folder of an image, or a disk that firmware boots",
    )
    parser.add_argument("--key", metavar="PEM|HEX", help="Ed25519 public key that must have signed the file")


def run(arguments: argparse.Namespace) -> Answer:
    """Verify one file or image; the first thing that is wrong with it is raised."""
    file: Path = arguments.file
    key = load_public_key(arguments.key) if arguments.key else None
    if file.is_dir():
        return _verify_image(file, key)
    if is_disk(file):
        return verify_disk(file, key=key.public_bytes_raw() if key else None)
    report = check_file(rust_reader(file), file, public_key=key.public_bytes_raw() if key else None)
    with reported("verify") as progress:
        if report["kind"] == "rts":
            verify_rts(file, public_key=key, progress=progress)
        listed = _verify_manifest(file)
    facts = {
        "file": file,
        "kind": report["kind"],
        "readers": ["rust", "python"] if report["kind"] == "rts" else ["rust"],
        "digests": _digests(report["rts"]) if report["kind"] == "rts" else None,
        "signature": _signature(report["rts"], checked=key is not None) if report["kind"] == "rts" else None,
        "manifest": "agrees" if listed else None,
    }
    words = [
        f"{name} {value}" for name, value in facts.items() if name in {"digests", "signature", "manifest"} and value
    ]
    return Answer(facts, ", ".join([f"{path_text(file)}: sound {report['kind'].upper()} file", *words]))


def _verify_image(folder: Path, key: Ed25519PublicKey | None) -> Answer:
    """Every file of an image against its manifest, and the container with the Rust reader too."""
    with reported("verify") as progress:
        checked = check_image(folder, key=key, tensors=True, composed=True, progress=progress)
    rts = folder / RTS_NAME
    check_file(rust_reader(rts), rts, public_key=key.public_bytes_raw() if key else None)
    manifest = folder / MANIFEST_NAME
    disk = [DISK_NAME] if DISK_NAME in parse_outputs(manifest.read_bytes(), origin=path_text(manifest)) else []
    for name in disk:
        verify_disk(folder / name, key=key.public_bytes_raw() if key else None)
    signature = "none"
    if checked.signed_by:
        signature = f"by the key {checked.signed_by}{'' if key else ', which was not demanded with --key'}"
    names = [MANIFEST_NAME, *(path.name for path in checked.stamps), *disk]
    facts = {"folder": folder, "kind": "image", "files": names, "signed_by": checked.signed_by, "key_given": bool(key)}
    return Answer(facts, f"{path_text(folder)}: sound image, {', '.join(names)}; signature {signature}")


def _verify_manifest(file: Path) -> bool:
    """Whether a manifest beside the file lists it; raises InputError if it does and the file is another."""
    manifest = file.parent / MANIFEST_NAME
    if not manifest.is_file():
        return False
    listed = parse_outputs(manifest.read_bytes(), origin=str(manifest)).get(file.name)
    if listed is None:
        return False
    size, sha256 = file.stat().st_size, hash_file(file)
    if (listed.size, listed.sha256) != (size, sha256):
        what = f"{file} has {size} bytes and SHA-256 {sha256}, but {manifest} lists {listed.size} and {listed.sha256}"
        raise InputError(what, remedy="run `vboot build` again")
    return True


def _digests(rts: dict[str, object]) -> str:
    present = [name for name in ("binary", "tensor") if rts[f"{name}_sha256"]]
    return f"of {' and '.join(present)} verified" if present else "absent"


def _signature(rts: dict[str, object], *, checked: bool) -> str:
    if not rts["key_id"]:
        return "none"
    return "verified" if checked else "not checked (give --key)"
