"""The tables inside the pages of the specification, made from the TOML files beside them.

A page marks where a table goes: `<!-- NAME -->` and `<!-- end of NAME -->`, each on a line of its own.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from image.machine_tensors import MmioEntry, mmio_table
from image.pixels import PixelInstruction, instruction_table

SPEC = Path(__file__).resolve().parent
SLOTS = 8

Row = Sequence[object]


def protocol_page() -> str:
    """protocol.md with its tables renewed."""
    tables = tomllib.loads((SPEC / "protocol.toml").read_text("utf-8"))
    parts = {
        "methods": _methods(tables["method"]),
        "limits": _table(
            ("limit", "value", ""), ((_code(x["name"]), _amount(x), x["meaning"]) for x in tables["limit"])
        ),
        "errors": _table(
            ("code", "name", "meaning", "what a person can do"),
            ((x["code"], _code(x["name"]), x["meaning"], x["remedy"]) for x in tables["error"]),
        ),
        "faults": _table(("what", ""), ((_code(x["name"]), x["meaning"]) for x in tables["fault"])),
        "journal reasons": _table(
            ("data.reason", "meaning", "what a person can do"),
            ((_code(x["name"]), x["meaning"], x["remedy"]) for x in tables["journal_reason"]),
        ),
        "reload reasons": _table(
            ("data.reason", "meaning", "what a person can do"),
            ((_code(x["name"]), x["meaning"], x["remedy"]) for x in tables["reload_reason"]),
        ),
        "update reasons": _table(
            ("data.reason", "meaning", "what a person can do"),
            ((_code(x["name"]), x["meaning"], x["remedy"]) for x in tables["update_reason"]),
        ),
        "record kinds": _table(("number", "kind"), ((x["number"], _code(x["name"])) for x in tables["record_kind"])),
    }
    for method in tables["method"]:
        own = [parameter for parameter in tables["parameter"] if parameter["method"] == method["name"]]
        if own:
            parts[f"parameters of {method['name']}"] = _parameters(own)
    return renewed((SPEC / "protocol.md").read_text("utf-8"), parts)


def machine_tensors_page() -> str:
    """machine-tensors.md with its tables renewed."""
    tables = tomllib.loads((SPEC / "protocol.toml").read_text("utf-8"))
    tensors = (
        (_tensor_names(x), x["type"], f"{x['elements']:,}", "yes" if x["protected"] else "no", x["meaning"])
        for x in tables["machine_tensor"]
    )
    words = ((_words(x), _code(x.name), _initial(x), x.meaning) for x in mmio_table())
    parts = {
        "machine tensors": _table(("tensor", "type", "elements", "protected", "meaning"), tensors),
        "hw.mmio words": _table(("word", "name", "initially", "meaning"), words),
    }
    return renewed((SPEC / "machine-tensors.md").read_text("utf-8"), parts)


def pixels_page() -> str:
    """pixels.md with its tables renewed."""
    instructions = ((f"0x{x.code:02X}", x.name, _immediate(x), x.effect) for x in instruction_table())
    titles = ((f"kernel.{slot}", _title(slot)) for slot in range(SLOTS))
    parts = {
        "instructions": _table(("g", "name", "b", "effect"), instructions),
        "kernels": _table(("slot", "what it does"), titles),
    }
    return renewed((SPEC / "pixels.md").read_text("utf-8"), parts)


def journal_page() -> str:
    """journal.md with its tables renewed."""
    tables = tomllib.loads((SPEC / "journal.toml").read_text("utf-8"))
    parts = {
        name: _table(
            ("offset", "bytes", "field", "type", ""),
            ((x["offset"], x["bytes"], _code(x["name"]), x["type"], x["meaning"]) for x in tables[name]),
        )
        for name in ("superblock", "frame", "entry")
    }
    parts["constants"] = _table(
        ("constant", "value", ""), ((_code(x["name"]), _amount(x), x["meaning"]) for x in tables["constant"])
    )
    parts["entry kinds"] = _table(
        ("number", "kind", ""), ((x["number"], _code(x["name"]), x["meaning"]) for x in tables["entry_kind"])
    )
    return renewed((SPEC / "journal.md").read_text("utf-8"), parts)


PAGES: Mapping[Path, Callable[[], str]] = {
    Path("spec/journal.md"): journal_page,
    Path("spec/protocol.md"): protocol_page,
    Path("spec/machine-tensors.md"): machine_tensors_page,
    Path("spec/pixels.md"): pixels_page,
}


def renewed(text: str, parts: Mapping[str, str]) -> str:
    """`text` with the content of each marked part replaced. Raises ValueError unless text and `parts` have the same."""
    marked = re.findall(r"^<!-- end of (.+) -->$", text, re.MULTILINE)
    if sorted(marked) != sorted(parts):
        raise ValueError(f"the page and its tables differ: {sorted(set(marked) ^ set(parts))}")
    for part, content in parts.items():
        before, begin, rest = text.partition(f"<!-- {part} -->\n")
        _, end, after = rest.partition(f"<!-- end of {part} -->\n")
        text = before + begin + "\n" + content + "\n" + end + after
    return text


def _table(heads: Row, rows: Iterable[Row]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _methods(methods: Iterable[Mapping[str, Any]]) -> str:
    heads = ("method", "", "kind", "passes", "cancellable", "emergency", "signed", "blob", "repeat")
    rows = (
        (
            f"[{x['name']}](#{x['name']})",
            x["summary"],
            x["runs"],
            _yes(x["passes"]),
            _yes(x["cancellable"]),
            _yes(x["emergency"]),
            _yes(x["signed"]),
            x["blob"],
            x["repeat"],
        )
        for x in methods
    )
    return _table(heads, rows)


def _parameters(parameters: Iterable[Mapping[str, Any]]) -> str:
    rows = (
        (_code(x["name"]), x["type"], "required" if x["required"] else "optional", x["meaning"]) for x in parameters
    )
    return _table(("member", "type", "", ""), rows)


def _amount(limit: Mapping[str, Any]) -> str:
    return f"{limit['value']:,} {limit['unit']}"


def _tensor_names(tensor: Mapping[str, Any]) -> str:
    name = tensor["name"]
    return f"`{name}.0` to `{name}.{tensor['count'] - 1}`" if "count" in tensor else f"`{name}`"


def _words(entry: MmioEntry) -> str:
    return str(entry.word) if entry.words == 1 else f"{entry.word} to {entry.word + entry.words - 1}"


def _initial(entry: MmioEntry) -> str:
    if entry.signed or entry.initial < 1 << 16:
        return str(entry.initial)
    return f"0x{entry.initial:08X}" + (" each" if entry.words > 1 else "")


def _title(slot: int) -> str:
    return (SPEC / "kernels" / f"kernel.{slot}.txt").read_text("utf-8").splitlines()[0].lstrip("; ")


def _immediate(opcode: PixelInstruction) -> str:
    if opcode.operand == "slot":
        return "0–7 `kernel.b`, 128–135 `evolved.(b-128)`"
    if opcode.operand == "vector":
        return "a neural interrupt, 0 means 255"
    return ", ".join(f"{number} {name}" for number, name in enumerate(opcode.immediates)) or "0"


def _yes(flag: bool) -> str:
    return "yes" if flag else ""


def _code(word: str) -> str:
    return f"`{word}`"
