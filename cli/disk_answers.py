"""What `vboot inspect` and `vboot verify` say of a disk that firmware boots."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from builder.boot_disk import refuse_other_format
from cli.answer import Answer, columns, human_bytes
from cli.capabilities import capability_rows
from cli.progress import reported
from cli.rust_reader import rust_reader
from image import disk, gpt
from image.disk_check import BootFile, Contents, SlotContents, read_contents, verify_slot
from image.streams import open_input, size_of
from initramfs import newc
from vboot.check import CheckError, check_file
from vboot.errors import InputError
from vboot.text import path_text, printable

Reports = dict[disk.Slot, dict[str, Any]]
"""Of each slot that can be started: the report of `vector_boot check`, made with the public key if one is given."""

_TYPES = {disk.ESP_TYPE: "EFI system", disk.RTS_TYPE: "image", disk.STATE_TYPE: "state"}
_REMEDY = "write the disk again from a sound image"


def is_disk(file: Path) -> bool:
    """Whether a file or device begins as a partitioned disk; what cannot be read is none.

    Raises InputError if it is a disk in a format of virtual machines.
    """
    try:
        with open_input(file, what="file") as opened:
            head = opened.read(gpt.SECTOR)
    except InputError:
        return False
    try:
        refuse_other_format(head[:8])
    except InputError as error:
        raise InputError(f"{path_text(file)} is no raw disk: {error.what}", remedy=error.remedy) from error
    return gpt.is_partitioned(head)


def inspect_disk(file: Path) -> Answer:
    """Describe a disk. Raises InputError for the first thing wrong with it; the hash trees are not computed."""
    contents, size, reports = _read(file, key=None)
    rows = [
        ("disk", f"{path_text(file)}, {human_bytes(size)}, GUID {contents.disk.gpt.disk_guid}"),
        ("boot loader", f"{human_bytes(contents.loader.size)}, SHA-256 {contents.loader.sha256}, "
                        f"{_signed(contents.loader.signed)}"),
        ("default", f"slot {contents.loader.default}"),
        *(row for slot in contents.slots.values() for row in _slot_rows(slot, reports.get(slot.slot))),
        ("state", "blank" if contents.state_blank else "written"),
    ]  # fmt: skip
    if not contents.backup_at_end:
        rows.append(("partitions", "the backup of their table is not at the end of the disk: `sgdisk -e` moves it"))
    text = "\n".join([columns(rows), "", _partition_table(contents)])
    return Answer(_facts(file, size, contents, reports), text, report_only=True)


def verify_disk(file: Path, *, key: bytes | None) -> Answer:
    """Verify a disk: tables, file system, boot files, the images in the slots and their hash trees.

    `key` (32 raw bytes, Ed25519) must have signed every image that can be started. Raises InputError for the first
    thing wrong.
    """
    contents, size, reports = _read(file, key=key)
    with open_input(file, what="disk") as opened, reported("verify") as progress:
        for slot in contents.slots.values():
            if slot.boot is None:
                continue
            verify_slot(opened, slot, progress=progress)
            _require_same_executable(slot.boot, reports[slot.slot])
    facts = _facts(file, size, contents, reports) | {"key_given": key is not None}
    words = [_slot_words(slot, reports.get(slot.slot), checked=key is not None) for slot in contents.slots.values()]
    return Answer(facts, f"{path_text(file)}: sound disk, {', '.join(words)}")


def _read(file: Path, *, key: bytes | None) -> tuple[Contents, int, Reports]:
    executable = rust_reader(file)
    with open_input(file, what="disk") as opened:
        size = size_of(opened)
        try:
            contents = read_contents(opened, size=size)
        except InputError as error:
            raise InputError(f"{path_text(file)}: {error.what}", remedy=error.remedy or _REMEDY) from error
    reports: Reports = {}
    for slot in contents.slots.values():
        if slot.boot is not None:
            place = slot.partition.start, slot.partition.size
            try:
                reports[slot.slot] = check_file(executable, file, public_key=key, part=place)
            except CheckError as error:
                raise InputError(f"slot {slot.slot} of {error.what}", remedy=_REMEDY) from error
    return contents, size, reports


def _require_same_executable(boot: BootFile, report: dict[str, Any]) -> None:
    """A machine whose /init is not the executable of its image would boot into an emergency."""
    stated = report["rts"]["binary_sha256"]
    init = next((record.data for record in newc.read(boot.image.initramfs) if record.name == "init"), None)
    found = hashlib.sha256(init).hexdigest() if init is not None else None
    if stated is not None and found != stated:
        what = f"/init in {boot.entry.name} has SHA-256 {found}, expected {stated} (the executable of slot"
        raise InputError(f"{what} {boot.entry.slot})", remedy=_REMEDY)


def _slot_rows(contents: SlotContents, report: dict[str, Any] | None) -> list[tuple[str, str]]:
    name = f"slot {contents.slot}"
    boot = contents.boot
    if boot is None or report is None:
        return [(name, _unstartable(contents))]
    rts, gguf = report["rts"], report["gguf"]
    system = f"{printable(_pretty_name(boot))}, Linux {printable(boot.image.release)}, {_signed(boot.image.signed)}"
    model = f"{printable(gguf['name'] or 'no name')} ({printable(gguf['architecture'] or 'no architecture')})"
    signature = f"by key {rts['key_id']}, not checked here" if rts["key_id"] else "none"
    return [
        (name, f"{boot.entry.name}, {_tries(boot)}"),
        ("  system", system),
        ("  boot file", f"{human_bytes(boot.entry.size)}, SHA-256 {boot.sha256}"),
        ("  command line", printable(boot.image.command_line)),
        ("  hash tree", f"root {boot.verity.root.hex()} of {boot.verity.data_blocks} blocks"),
        ("  model", f"{model}, {gguf['parameters']:,} parameters in {gguf['tensors']} tensors"),
        ("  executable", f"{human_bytes(rts['binary_size'])}, SHA-256 {rts['binary_sha256'] or 'absent'}"),
        ("  tensors", f"{human_bytes(rts['tensor_size'])}, SHA-256 {rts['tensor_sha256'] or 'absent'}"),
        ("  signature", signature),
        ("  security", f"version {rts['security_version']}"),
        *((f"  {left}", right) for left, right in capability_rows(report["capabilities"])),
    ]  # fmt: skip


def _slot_words(contents: SlotContents, report: dict[str, Any] | None, *, checked: bool) -> str:
    if contents.boot is None or report is None:
        return f"slot {contents.slot} {_unstartable(contents)}"
    signature = "unsigned"
    if report["rts"]["key_id"]:
        signature = "signature verified" if checked else "signature not checked (give --key)"
    return f"slot {contents.slot} {_tries(contents.boot)}, its hash tree is that of its boot file, {signature}"


def _unstartable(contents: SlotContents) -> str:
    return "blank" if contents.blank else "without a boot entry, so nothing starts it; not checked"


def _tries(boot: BootFile) -> str:
    left, done = boot.entry.tries_left, boot.entry.tries_done
    return "found good" if left is None else f"on trial, {left} tries left, {done} done"


def _pretty_name(boot: BootFile) -> str:
    lines = dict(line.split("=", 1) for line in boot.image.os_release.splitlines() if "=" in line)
    return lines.get("PRETTY_NAME", "no name").strip('"')


def _signed(signed: bool) -> str:
    return "signed for Secure Boot (not checked here)" if signed else "not signed for Secure Boot"


def _partition_table(contents: Contents) -> str:
    rows = [("partition", "type", "start", "bytes", "GUID")]
    rows += [
        (printable(part.name), _TYPES.get(part.type_guid, str(part.type_guid)), str(part.start), str(part.size),
         str(part.guid))
        for part in contents.disk.gpt.partitions
    ]  # fmt: skip
    return columns(rows)


def _facts(file: Path, size: int, contents: Contents, reports: Reports) -> dict[str, Any]:
    table, loader = contents.disk.gpt, contents.loader
    return {
        "file": file,
        "kind": "disk",
        "bytes": size,
        "disk_guid": str(table.disk_guid),
        "backup_table_at_end": contents.backup_at_end,
        "partitions": [
            {"name": part.name, "type": str(part.type_guid), "guid": str(part.guid), "start": part.start,
             "bytes": part.size}
            for part in table.partitions
        ],
        "loader": {"bytes": loader.size, "sha256": loader.sha256, "signed": loader.signed},
        "default_slot": loader.default,
        "slots": {slot: _slot_facts(found, reports.get(slot)) for slot, found in contents.slots.items()},
        "state_blank": contents.state_blank,
    }  # fmt: skip


def _slot_facts(contents: SlotContents, report: dict[str, Any] | None) -> dict[str, Any]:
    boot = contents.boot
    facts: dict[str, Any] = {"partition": contents.partition.name, "blank": contents.blank, "boot": None}
    if boot is None or report is None:
        return facts
    return {
        **facts,
        "boot": {
            "file": boot.entry.name, "bytes": boot.entry.size, "sha256": boot.sha256,
            "tries_left": boot.entry.tries_left, "tries_done": boot.entry.tries_done, "signed": boot.image.signed,
            "name": _pretty_name(boot), "release": boot.image.release, "command_line": boot.image.command_line,
        },
        "verity": {"root": boot.verity.root.hex(), "data_blocks": boot.verity.data_blocks},
        "rts": report["rts"],
        "gguf": report["gguf"],
        "capabilities": report["capabilities"],
    }  # fmt: skip
