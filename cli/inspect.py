"""`vboot inspect`: what an RTS or GGUF file or a disk holds."""

from __future__ import annotations

import argparse
import mmap
from pathlib import Path
from typing import Any

from cli.answer import Answer, columns, human_bytes
from cli.capabilities import capability_rows
from cli.disk_answers import inspect_disk, is_disk
from cli.option_types import path
from cli.rust_reader import rust_reader
from vboot.check import check_file
from vboot.gguf import TensorEntry, read_layout, type_name
from vboot.text import path_text, printable


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("file", type=path, metavar="FILE", help="an RTS or GGUF file, or a disk that firmware boots")


def run(arguments: argparse.Namespace) -> Answer:
    """Describe a file that the Rust reader accepts; digests are checked on the way."""
    if is_disk(arguments.file):
        return inspect_disk(arguments.file)
    report = check_file(rust_reader(arguments.file), arguments.file)
    tensors = _tensors(arguments.file, report)
    shown = [
        {"name": t.name, "type": type_name(t.type), "shape": list(t.dims), "offset": t.offset, "bytes": t.size}
        for t in tensors
    ]
    data = {name: value for name, value in report.items() if name != "ok"} | {"tensors": shown}
    return Answer(
        data | {"file": arguments.file}, "\n".join([*_head(arguments.file, report), _table(tensors)]), report_only=True
    )


def _tensors(file: Path, report: dict[str, Any]) -> tuple[TensorEntry, ...]:
    """The table of the file's GGUF; offsets are from the start of the GGUF. Only its header is read from the disk."""
    start = report["rts"]["tensor_offset"] if report["kind"] == "rts" else 0
    size = report["rts"]["tensor_size"] if report["kind"] == "rts" else report["bytes"]
    with (
        file.open("rb") as stream,
        mmap.mmap(stream.fileno(), start + size, access=mmap.ACCESS_READ) as data,
        memoryview(data) as view,
        view[start:] as gguf,
    ):
        return read_layout(gguf, name=str(file)).tensors


def _head(file: Path, report: dict[str, Any]) -> list[str]:
    gguf, rts = report["gguf"], report.get("rts")
    types = ", ".join(f"{count} {name}" for name, count in gguf["types"].items())
    rows = [
        ("file", f"{path_text(file)}, {human_bytes(report['bytes'])}"),
        ("model", f"{printable(gguf['name'] or 'no name')} ({printable(gguf['architecture'] or 'no architecture')})"),
        ("parameters", f"{gguf['parameters']:,} in {gguf['tensors']} tensors ({types})"),
        ("gguf", f"version {gguf['version']}, {gguf['metadata']} keys, alignment {gguf['alignment']}, data of "
                 f"{human_bytes(gguf['data_bytes'])} at {gguf['data_offset']}"),
    ]  # fmt: skip
    if rts:
        rows += [
            ("executable", f"{human_bytes(rts['binary_size'])} at 512, SHA-256 {rts['binary_sha256'] or 'absent'}"),
            ("tensors", f"{human_bytes(rts['tensor_size'])} at {rts['tensor_offset']}, "
                        f"SHA-256 {rts['tensor_sha256'] or 'absent'}"),
            ("signature", f"by key {rts['key_id']}, not checked here" if rts["key_id"] else "none"),
            ("security", f"version {rts['security_version']}"),
            ("bootable", "yes" if rts["bootable"] else "no: the tensors do not start on a page"),
        ]  # fmt: skip
    return [columns([*rows, *capability_rows(report["capabilities"])]), ""]


def _table(tensors: tuple[TensorEntry, ...]) -> str:
    rows = [("tensor", "type", "shape", "bytes", "offset")]
    rows += [
        (printable(t.name), type_name(t.type), " x ".join(map(str, t.dims)), str(t.size), str(t.offset))
        for t in tensors
    ]
    return columns(rows)
