"""Writes tables.rs and decompositions.rs beside this file: what Hugging Face's `tokenizers` knows of Unicode.

Run it without arguments, where the PyPI package tokenizers 0.23.3 is installed; it takes a minute.

The package mixes Unicode versions (8.0 for categories, 9.0 for decompositions), so no single edition of `unicodedata`
would do: each code point is put to its BertNormalizer, NFD and BertPreTokenizer, and the answers are the tables.
Whitespace and lower case agree with Rust's `char` methods and need none.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

from tokenizers.normalizers import NFD, BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

CHARS = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
HANGUL = range(0xAC00, 0xD7A4)


def normalizer(step: str) -> Callable[[str], str]:
    """One step of the BertNormalizer alone."""
    steps = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
    made: Callable[[str], str] = BertNormalizer(**(steps | {step: True})).normalize_str
    return made


clean, space, strip = (normalizer(step) for step in ("clean_text", "handle_chinese_chars", "strip_accents"))
decompose: Callable[[str], str] = NFD().normalize_str
split = BertPreTokenizer().pre_tokenize_str


def ranges(chars: Iterable[str]) -> list[tuple[int, int]]:
    """Code points in order as inclusive ranges."""
    found: list[tuple[int, int]] = []
    for code in sorted(map(ord, chars)):
        if found and found[-1][1] == code - 1:
            found[-1] = (found[-1][0], code)
        else:
            found.append((code, code))
    return found


# One mark for each combining class, among those that the package knows as one: U+0334 (class 1) is sorted before it.
MARKS = {1: "\u0334"} | {
    unicodedata.combining(char): char
    for char in reversed(CHARS)
    if decompose(char) == char and decompose(f"a{char}\u0334") != f"a{char}\u0334"
}
CLASSES = sorted(MARKS)


def combining_class(char: str) -> int:
    """Found out by which marks it is sorted before; 0 when it is sorted before none."""
    above = [number for number in CLASSES if decompose("a" + MARKS[number] + char) != "a" + MARKS[number] + char]
    return CLASSES[CLASSES.index(above[0]) - 1] if above else 0


def is_barrier(mark: str) -> bool:
    """Whether marks are not sorted across this one. U+1D165 (class 216) and U+1D16D (226) are never dropped."""
    return strip("\U0001d16d" + mark + "\U0001d165")[0] == "\U0001d16d"


def constant(name: str, kind: str, meaning: str, rows: list[str]) -> str:
    """The Rust text of one table."""
    lines = textwrap.fill(", ".join(rows), 120, initial_indent="    ", subsequent_indent="    ", break_long_words=False)
    return f"/// {meaning}\n#[rustfmt::skip]\npub static {name}: &[{kind}] = &[\n{lines},\n];\n"


def range_table(name: str, meaning: str, chars: Iterable[str]) -> str:
    """The Rust text of a set of characters."""
    rows = [f"({first:#x},{last:#x})" for first, last in ranges(chars)]
    return constant(name, "(u32, u32)", meaning, rows)


def decompositions() -> list[str]:
    """The Rust text of the decompositions without their dropped marks, Hangul aside, as pairs."""
    stripped = {char: strip(char) for char in CHARS if ord(char) not in HANGUL and strip(char) not in ("", char)}
    one = {char: to for char, to in stripped.items() if len(to) == 1}
    short = [f"({ord(c):#x},{ord(to):#x})" for c, to in one.items() if max(c, to) <= "\uffff"]
    wide = [f"({ord(c):#x},{ord(to):#x})" for c, to in one.items() if max(c, to) > "\uffff"]
    several = [f'({ord(c):#x},"{escaped(to)}")' for c, to in stripped.items() if len(to) > 1]
    return [
        constant("BASE_16", "(u16, u16)", "Characters that decompose to one, both below U+10000.", short),
        constant("BASE_32", "(u32, u32)", "The other characters that decompose to one.", wide),
        constant("SEQUENCE", "(u32, &str)", "Characters that decompose to several.", several),
    ]


def escaped(text: str) -> str:
    """Text for a Rust string literal."""
    return "".join(f"\\u{{{ord(char):x}}}" for char in text)


def main() -> None:
    """Write tables.rs and decompositions.rs."""
    dropped = [char for char in CHARS if strip(char) == ""]
    classes = {char: combining_class(char) for char in CHARS if strip(char) == char}
    marks = [
        f"({first:#x},{last:#x},{wanted})"
        for wanted in CLASSES
        for first, last in ranges(char for char, number in classes.items() if number == wanted)
    ]
    sets = [
        range_table("REMOVED", "Control, format and private-use characters.", [c for c in CHARS if clean(c) == ""]),
        range_table("IDEOGRAPHS", "Characters that are words of their own.", [c for c in CHARS if space(c) != c]),
        range_table("DROPPED", "Nonspacing marks, and what decomposes to nothing else.", dropped),
        range_table("BARRIERS", "Dropped characters that marks are not sorted across.", filter(is_barrier, dropped)),
        constant("CLASSES", "(u32, u32, u8)", "Combining classes, other than 0, of what is not dropped.", marks),
        range_table("PUNCTUATION", "Punctuation.", [c for c in CHARS if len(split(f"a{c}a")) == 3]),
    ]
    write("tables.rs", "Sets of characters", sets)
    write("decompositions.rs", "Canonical decompositions without nonspacing marks, Hangul aside", decompositions())


def write(name: str, what: str, tables: list[str]) -> None:
    """Write one file beside this one."""
    head = f"//! {what}, as in Hugging Face's `tokenizers` 0.23.3. Written by make_tables.py.\n\n"
    Path(__file__).with_name(name).write_text(head + "\n".join(tables))


main()
