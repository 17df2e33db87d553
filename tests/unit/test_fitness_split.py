"""The parts of a data set."""

from __future__ import annotations

import dataclasses
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution.fitness.contract import Dataset, Pair
from evolution.fitness.split import _SHARES, PartSizes, pair_digest, split
from vboot.errors import InputError

ALL = PartSizes(train=10**6, calibration=10**6, watch=10**6, held_out=10**6)


def pairs(count: int) -> list[Pair]:
    return [Pair(f"query {n}", f"document {n} " + "word " * (n % 100)) for n in range(count)]


def parts(dataset: Dataset) -> dict[str, tuple[Pair, ...]]:
    return {
        **{f.name: getattr(dataset.search, f.name) for f in dataclasses.fields(dataset.search)},
        "held": dataset.held_out,
    }


def test_each_pair_is_in_one_part_and_none_is_lost() -> None:
    whole = pairs(2000)
    split_up = parts(split(whole + whole[:100], source="test", sizes=ALL))
    assert sorted(pair.query for part in split_up.values() for pair in part) == sorted(pair.query for pair in whole)
    shares = {name: len(part) / len(whole) for name, part in split_up.items()}
    assert shares == pytest.approx({"train": 0.7, "calibration": 0.1, "watch": 0.05, "held": 0.15}, abs=0.02)


def test_the_shares_are_exactly_those_that_are_documented() -> None:
    whole = {pair_digest(pair): pair for pair in pairs(2000)}
    ends = {"train": 70, "calibration": 80, "watch": 85, "held": 100}
    expected: dict[str, set[Pair]] = {name: set() for name in ends}
    for digest, pair in whole.items():
        percent = Fraction(int.from_bytes(digest[:8], "big"), 1 << 64) * 100
        expected[next(name for name, end in ends.items() if percent < end)].add(pair)
    found = parts(split(whole.values(), source="test", sizes=ALL))
    assert {name: set(part) for name, part in found.items()} == expected
    # More than all would be a share that is not what it says.
    assert sum(_SHARES.values()) == 100


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.sets(st.integers(0, 599), min_size=300))
def test_what_else_the_list_holds_moves_no_pair_to_another_part(chosen: set[int]) -> None:
    whole = pairs(600)
    of_all = parts(split(whole, source="test", sizes=ALL))
    of_some = parts(split([whole[n] for n in chosen], source="test", sizes=ALL))
    for name, part in of_some.items():
        assert set(part) == {whole[n] for n in chosen} & set(of_all[name])


@pytest.mark.parametrize("sizes", [ALL, PartSizes(train=50, calibration=5, watch=3, held_out=10)])
def test_no_text_is_in_two_parts(sizes: PartSizes) -> None:
    several_queries = [Pair(f"query {n}", f"document {n // 3}") for n in range(1200)]
    several_documents = [Pair(f"short {n // 2}", f"long {n}") for n in range(1200)]
    whole = several_queries + several_documents
    dataset = split(whole, source="test", sizes=sizes)
    of_parts = [{text for pair in part for text in (pair.query, pair.document)} for part in parts(dataset).values()]
    assert sum(map(len, of_parts)) == len(set().union(*of_parts))
    assert set(split(whole, source="test", sizes=ALL).held_out) >= set(
        split(whole, source="test", sizes=sizes).held_out
    )


def test_sizes_keep_the_first_by_digest_in_any_order_of_the_list() -> None:
    whole = pairs(600)
    sizes = PartSizes(train=50, calibration=20, watch=5, held_out=30)
    small, large = split(whole, source="test", sizes=sizes), split(whole, source="test", sizes=ALL)
    assert small.search.train == large.search.train[:50]
    assert small.held_out == large.held_out[:30]
    assert list(small.held_out) == sorted(small.held_out, key=pair_digest)
    random.Random(1).shuffle(whole)
    assert split(whole, source="test", sizes=sizes) == small


def test_watch_takes_short_texts_first() -> None:
    watch = split(pairs(2000), source="test", sizes=ALL).search.watch
    are_short = [len(pair.document) <= 200 for pair in watch]
    assert are_short == sorted(are_short, reverse=True)
    assert 0 < sum(are_short) < len(are_short)


def test_the_digest_is_that_of_the_content() -> None:
    whole = pairs(600)
    digest = split(whole, source="test").sha256
    assert split(whole[::-1], source="another").sha256 == digest
    assert split([*whole[1:], Pair("query 0", "changed")], source="test").sha256 != digest
    assert split(whole, source="test", sizes=PartSizes(train=50)).sha256 != digest
    assert pair_digest(Pair("ab", "c")) != pair_digest(Pair("a", "bc"))


def test_the_split_is_the_one_that_published_figures_were_measured_on() -> None:
    assert split(pairs(600), source="test").sha256[:16] == "04ef06e3ded7e8af"


def test_too_few_pairs_are_refused() -> None:
    with pytest.raises(InputError, match=r"test: the .* part has [01] pairs; give more pairs"):
        split(pairs(5), source="test")
