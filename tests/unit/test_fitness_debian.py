"""Pairs from package lists as apt and dpkg write them."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution.fitness.contract import Pair
from evolution.fitness.debian import FEWEST_PAIRS, SHORTEST_DOCUMENT, Description, clean, parse, read_pairs
from vboot.errors import InputError, ToolError

LONG = "It reads what others write, and says at some length what it is that they have written"


def stanza(name: str, short: str, long: str, *, field: str = "Description", source: str = "") -> str:
    lines = [f"Package: {name}", *([f"Source: {source}"] if source else []), f"{field}: {short}", f" {long}"]
    return "\n".join(lines) + "\n\n"


def many(count: int, *, field: str = "Description-en") -> str:
    return "".join(stanza(f"p{n}", f"tool number {n}", f"Number {n}. {LONG}.", field=field) for n in range(count))


def test_a_translation_stanza_is_read_as_one_line_of_each_text() -> None:
    data = (
        b"Package: 2048\nDescription-md5: 2d3a\nDescription-en: Slide  and add\tpuzzle\n"
        b" Slide the tiles.\n .\n  * one\n\t* two \xc3\xa9\nHomepage: none\n\nPackage: b\n"
    )
    assert list(parse(data)) == [
        Description("2048", "", "Slide and add puzzle", "Slide the tiles. * one * two é"),
        Description("b", "", "", ""),
    ]


def test_a_status_stanza_is_read_with_its_source_but_not_its_version() -> None:
    data = b"Package: libx\nStatus: install ok installed\nSource: x (1.2)\nDescription: x\n long\n"
    assert list(parse(data)) == [Description("libx", "x", "x", "long")]


@settings(derandomize=True, deadline=None)
@given(
    st.one_of(
        st.binary(),
        st.lists(
            st.sampled_from([b"Package: a", b"Source: s", b"Description: d", b" .", b" more", b"\n", b"\r", b"\xff"])
        ).map(b"\n".join),
    )
)
def test_any_bytes_give_pairs_of_clean_texts(data: bytes) -> None:
    for pair in clean(parse(data)):
        assert pair.query.isprintable()
        assert pair.document.isprintable()
        assert len(pair.document) >= SHORTEST_DOCUMENT


def test_one_pair_is_kept_of_a_source_package_a_query_and_a_beginning_of_a_document() -> None:
    start = f"{LONG}, which is more than a line of text holds and so is long."
    entries = [
        Description("foo", "foo", "reader", f"Foo. {LONG}"),
        Description("foo-doc", "foo", "reader (documentation)", f"Foo's manual. {LONG}"),
        Description("gcc-11", "gcc-11", "compiler", f"GCC 11. {LONG}"),
        Description("gcc-12", "gcc-12", "compiler", f"GCC 12. {LONG}"),
        Description("twin-a", "", "twin a", f"{start} This is a."),
        Description("twin-b", "", "twin b", f"{start} This is b."),
        Description("short", "", "short", "It was renamed."),
        Description("mute", "", "", LONG),
        Description("broken", "", "broken", f"{LONG} \N{REPLACEMENT CHARACTER}"),
    ]
    kept = ("reader", "compiler", "twin a")
    pairs = clean(entries)
    assert tuple(sorted(pair.query for pair in pairs)) == tuple(sorted(kept))
    random.Random(0).shuffle(entries)
    assert clean([*entries, *entries[:3]]) == pairs


def test_the_source_that_one_list_names_holds_for_the_descriptions_of_another() -> None:
    described = [Description(name, "", f"short {name}", f"{name}: {LONG}") for name in ("libx1", "x-tools")]
    assert len(clean(described)) == 2
    named = [Description(name, "x", "", "") for name in ("libx1", "x-tools")]
    assert [pair.query for pair in clean([*described, *named])] == ["short libx1"]


def test_lists_are_read_plain_and_compressed_and_other_files_are_not(tmp_path: Path) -> None:
    half = many(FEWEST_PAIRS)
    (tmp_path / "host_main_i18n_Translation-en").write_text(half)
    (tmp_path / "host_main_binary-amd64_Packages.gz").write_bytes(
        gzip.compress(stanza("zlib", "zip", f"Zip. {LONG}").encode())
    )
    for name in ("host_main_i18n_Translation-en_GB", "host_InRelease", "host_Translation-en.diff_Index"):
        (tmp_path / name).write_text(stanza("other", f"found in {name}", f"{name} {LONG}"))
    (tmp_path / "partial").mkdir()
    pairs = read_pairs(tmp_path, status=tmp_path / "none")
    assert len(pairs) == FEWEST_PAIRS + 1
    assert pairs[-1] == Pair("zip", f"Zip. {LONG}")


def test_installed_packages_stand_in_for_lists_without_descriptions(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text(many(FEWEST_PAIRS, field="Description"))
    assert len(read_pairs(tmp_path / "missing", status=status)) == FEWEST_PAIRS
    with pytest.raises(InputError, match="missing describes 0 packages"):
        read_pairs(tmp_path / "missing", status=None)


def test_too_few_pairs_are_refused_with_the_command_that_fetches_more(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text(many(FEWEST_PAIRS - 1))
    with pytest.raises(InputError, match=r"describe 0 and 255 packages.*apt-get -o Acquire::Languages=en update"):
        read_pairs(tmp_path, status=status)


def test_a_damaged_list_is_named(tmp_path: Path) -> None:
    spoilt = tmp_path / "host_main_binary-amd64_Packages.gz"
    data = bytearray(gzip.compress(many(FEWEST_PAIRS).encode()))
    data[len(data) // 2] ^= 0xFF
    spoilt.write_bytes(data)
    with pytest.raises(ToolError, match=r"cannot read .*Packages\.gz; fetch the lists again"):
        read_pairs(tmp_path)


def test_a_path_that_is_not_a_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match="give a folder"):
        read_pairs(file)
