"""Writes every file that is generated from the tables in `spec/`.

These are the methods, codes and limits of the protocol, the instructions of the pixel interpreter, its built-in
programs, the structures of the journal on a state device, and the tables in the pages of the specification.

Run it from the checkout after a change of a TOML file or program in `spec/`:
`.venv/bin/python spec/generate.py`. A test fails until that has been done. The Rust crate reads the same tables in its
build script.
"""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from image.pixels import instruction_table  # noqa: E402
from spec.pages import PAGES  # noqa: E402

PROTOCOL_MODULE = Path("vboot/protocol/tables.py")
TABLE_MODULE = Path("vboot/weights/pixel_table.py")
JOURNAL_MODULE = Path("vboot/journal/tables.py")
KERNELS = Path("spec/kernels.txt")
SLOTS = 8
INSTRUCTION = 250

_PROTOCOL_HEAD = '''"""The tables of the evolution protocol. Generated from spec/protocol.toml by spec/generate.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal


@dataclass(frozen=True)
class Parameter:
    """A member of a request's `params`. The types are described at the head of spec/protocol.toml."""

    name: str
    type: str
    required: bool
    meaning: str


@dataclass(frozen=True)
class Method:
    """A request that the machine answers, and its properties.

    `runs`: "inline" at once, "queued" on a second thread while later requests wait, "sized" either of these by its
    size, "beside" on a second thread while the methods with `passes` are answered, "apart" while only its own
    connection waits. `cancellable`: `cancel` ends it.
    `emergency`: answered in emergency mode too. `changes_weights`: it makes a new generation. `repeat`: whether a
    client may send it again when no reply came: always ("safe"), with the same id ("by_id"), or not by itself
    ("never"). `blob`: whether a blob comes with it. `in_process`: whether the C library answers it. `signed`: a
    machine with a mutation key takes it only inside `signed`.
    """

    name: str
    summary: str
    runs: Literal["inline", "queued", "sized", "beside", "apart"]
    passes: bool
    cancellable: bool
    emergency: bool
    changes_weights: bool
    repeat: Literal["safe", "by_id", "never"]
    blob: Literal["none", "optional", "required"]
    in_process: bool
    signed: bool
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True)
class MachineTensor:
    """A tensor that every machine has beside those of the model. No mutation changes a protected one."""

    name: str
    type: str
    elements: int
    protected: bool
    meaning: str


'''


_JOURNAL_HEAD = '''"""The structures of spec/journal.md. Generated from spec/journal.toml by spec/generate.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Field:
    """A field of a structure, little-endian: where it is inside, and how long."""

    name: str
    offset: int
    bytes: int
    type: Literal["u8", "u32", "u64", "f64", "bytes"]


'''


def protocol_module() -> str:
    """The tables of the protocol as a Python module without further imports."""
    tables = tomllib.loads((ROOT / "spec" / "protocol.toml").read_text("utf-8"))
    parts = [
        _code_enum(tables["error"]),
        *(_limit(limit) for limit in tables["limit"]),
        _mapping("METHODS", "str", "Method", ((m["name"], _method(m, tables["parameter"])) for m in tables["method"])),
        '"""By name."""\n',
        _mapping("MEANINGS", "int", "str", ((error["code"], _quoted(error["meaning"])) for error in tables["error"])),
        '"""What each error code means."""\n',
        _mapping("REMEDIES", "int", "str", ((error["code"], _quoted(error["remedy"])) for error in tables["error"])),
        '"""What a person can do about each error code."""\n',
        _words("EVENT_KINDS", (event["name"] for event in tables["event"])),
        '"""What a client can subscribe to."""\n',
        _words("FAULT_KINDS", (fault["name"] for fault in tables["fault"])),
        '"""How the worker process can be made to fail, for tests."""\n',
        _mapping("RELOAD_REASONS", "str", "str", ((x["name"], _quoted(x["meaning"])) for x in tables["reload_reason"])),
        '"""Why a reload failed: the words of `data.reason` with code 1021, and what they mean."""\n',
        _mapping("RELOAD_REMEDIES", "str", "str", ((x["name"], _quoted(x["remedy"])) for x in tables["reload_reason"])),
        '"""What a person can do about each of them."""\n',
        _mapping("UPDATE_REASONS", "str", "str", ((x["name"], _quoted(x["meaning"])) for x in tables["update_reason"])),
        '"""Why an update failed: the words of `data.reason` with code 1023, and what they mean."""\n',
        _mapping("UPDATE_REMEDIES", "str", "str", ((x["name"], _quoted(x["remedy"])) for x in tables["update_reason"])),
        '"""What a person can do about each of them."""\n',
        _mapping(
            "RECORD_KINDS", "int", "str", ((kind["number"], _quoted(kind["name"])) for kind in tables["record_kind"])
        ),
        '"""What a record of the journal is about, by its number in `cortex_journal`."""\n',
        _mapping(
            "JOURNAL_REASONS", "str", "str", ((x["name"], _quoted(x["meaning"])) for x in tables["journal_reason"])
        ),
        '"""Why the journal takes no changes: the words of `data.reason` with code 1015, and what they mean."""\n',
        _mapping(
            "JOURNAL_REMEDIES", "str", "str", ((x["name"], _quoted(x["remedy"])) for x in tables["journal_reason"])
        ),
        '"""What a person can do about each of them."""\n',
        _mapping(
            "VERDICTS", "int", "str", ((verdict["number"], _quoted(verdict["name"])) for verdict in tables["verdict"])
        ),
        '"""The verdict of a record, by its number in `cortex_journal`."""\n',
        _machine_tensors(tables["machine_tensor"]),
        "PROTECTED_TENSORS = frozenset(tensor.name for tensor in MACHINE_TENSORS if tensor.protected)\n",
    ]
    return _PROTOCOL_HEAD + "".join(parts)


def table_module() -> str:
    """The instruction table as a Python module without further imports."""
    entries = "\n".join(
        f"    Opcode({opcode.code}, {_quoted(opcode.name)}, {_tuple(opcode.immediates)}, {_quoted(opcode.operand)}),"
        for opcode in instruction_table()
    )
    return f'''"""The instructions of the pixel interpreter. Generated from spec/pixels.toml by spec/generate.py."""

from __future__ import annotations

from typing import NamedTuple

INSTRUCTION = {INSTRUCTION}


class Opcode(NamedTuple):
    """An instruction: `code` and name; what its immediate may be, names counted from 0, "slot" or "vector"."""

    code: int
    name: str
    immediates: tuple[str, ...]
    operand: str


OPCODES = (
{entries}
)
'''


def journal_module() -> str:
    """The structures of the journal on a state device as a Python module without further imports."""
    tables = tomllib.loads((ROOT / "spec" / "journal.toml").read_text("utf-8"))
    magics = "".join(
        f'{x["name"].upper()} = b"{x["bytes"]}"\n"""{_sentence(x["meaning"])}."""\n' for x in tables["magic"]
    )
    kinds = ((kind["number"], _quoted(kind["name"])) for kind in tables["entry_kind"])
    return "".join(
        [
            _JOURNAL_HEAD,
            magics,
            *map(_limit, tables["constant"]),
            _fields("SUPERBLOCK", tables["superblock"], "The fields of a superblock."),
            _fields("FRAME", tables["frame"], "The fields of the head of a frame."),
            _fields("ENTRY", tables["entry"], "The fields of the head of an entry."),
            _mapping("ENTRY_KINDS", "int", "str", kinds),
            '"""What an entry is, by its number."""\n',
        ]
    )


def kernels() -> str:
    """The built-in programs assembled, one a line in hexadecimal."""
    assemble: Callable[[str], bytes] = importlib.import_module("vboot.weights.pixels").assemble
    lines = "".join(f"kernel.{slot}: {assemble(_source(slot)).hex()}".rstrip() + "\n" for slot in range(SLOTS))
    return f"# The built-in programs, assembled from spec/kernels by spec/generate.py.\n{lines}"


def _code_enum(errors: Iterable[Mapping[str, Any]]) -> str:
    members = "".join(f"    {error['name'].upper()} = {error['code']}\n" for error in errors)
    return f'class Code(IntEnum):\n    """The error codes of the protocol."""\n\n{members}\n\n'


def _limit(limit: Mapping[str, Any]) -> str:
    return f'{limit["name"].upper()} = {limit["value"]}\n"""{_sentence(limit["meaning"])} ({limit["unit"]})."""\n'


def _sentence(meaning: str) -> str:
    return meaning[0].upper() + meaning[1:]


def _fields(name: str, fields: Iterable[Mapping[str, Any]], meaning: str) -> str:
    rows = "".join(
        f"    Field({_quoted(x['name'])}, {x['offset']}, {x['bytes']}, {_quoted(x['type'])}),\n" for x in fields
    )
    return f'{name} = (\n{rows})\n"""{meaning}"""\n'


def _method(method: Mapping[str, Any], parameters: Iterable[Mapping[str, Any]]) -> str:
    fields = "".join(f"        {key}={_literal(value)},\n" for key, value in method.items())
    own = [parameter for parameter in parameters if parameter["method"] == method["name"]]
    return f"Method(\n{fields}        parameters={_parameters(own)},\n    )"


def _parameters(parameters: Iterable[Mapping[str, Any]]) -> str:
    entries = "".join(
        "            Parameter(\n"
        + "".join(f"                {key}={_literal(value)},\n" for key, value in parameter.items() if key != "method")
        + "            ),\n"
        for parameter in parameters
    )
    return f"(\n{entries}        )" if entries else "()"


def _machine_tensors(tensors: Iterable[Mapping[str, Any]]) -> str:
    entries = "".join(
        f"    MachineTensor({_quoted(name)}, {_quoted(tensor['type'])}, {tensor['elements']}, {tensor['protected']}, "
        f"{_quoted(tensor['meaning'])}),\n"
        for tensor in tensors
        for name in _names(tensor)
    )
    return f"MACHINE_TENSORS = (\n{entries})\n"


def _names(tensor: Mapping[str, Any]) -> Iterable[str]:
    name = tensor["name"]
    return [f"{name}.{number}" for number in range(tensor["count"])] if "count" in tensor else [name]


def _mapping(name: str, key: str, value: str, entries: Iterable[tuple[object, str]]) -> str:
    rows = "".join(f"    {_literal(each)}: {content},\n" for each, content in entries)
    return f"{name}: Mapping[{key}, {value}] = {{\n{rows}}}\n"


def _words(name: str, words: Iterable[str]) -> str:
    return f"{name} = {_tuple(tuple(words))}\n"


def _literal(value: object) -> str:
    return _quoted(value) if isinstance(value, str) else repr(value)


def _source(slot: int) -> str:
    return (ROOT / "spec" / "kernels" / f"kernel.{slot}.txt").read_text("utf-8")


def _quoted(word: str) -> str:
    return f'"{word}"'


def _tuple(words: tuple[str, ...]) -> str:
    return f"({', '.join(map(_quoted, words))}{',' if len(words) == 1 else ''})"


GENERATED: Mapping[Path, Callable[[], str]] = {
    PROTOCOL_MODULE: protocol_module,
    TABLE_MODULE: table_module,
    JOURNAL_MODULE: journal_module,
    KERNELS: kernels,
    **PAGES,
}
"""The generated files; the table of instructions before the programs, for the assembler reads it."""


def main() -> None:
    """Write all files."""
    for path, content in GENERATED.items():
        (ROOT / path).write_text(content(), encoding="utf-8")


if __name__ == "__main__":
    main()
