"""The fitness of an encoder: its batches, and scores that are the same to the last bit."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from evolution.fitness import portable_math
from evolution.fitness.contract import Fitness, Pair, SearchData
from evolution.fitness.likeness import Likeness
from evolution.fitness.retrieval import RetrievalFitness, shorten
from tests.support.local_machine import tiny_model
from vboot.client.bridge import RustNeuralBridge
from vboot.errors import InputError

DIM = 24
PAIRS = tuple(Pair(f"subject {n}", f"subject {n} told at length") for n in range(300))


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Texts of the same first two words lie near each other."""
    vectors = [_direction(" ".join(text.split()[:2])) + 1.2 * _direction(text) for text in texts]
    return np.stack([vector / np.linalg.norm(vector) for vector in vectors]).astype(np.float32)


def _direction(text: str) -> NDArray[np.float64]:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).normal(size=DIM)
    return np.asarray(vector / np.linalg.norm(vector))


def fitness(train: Sequence[Pair] = PAIRS, *, seed: int = 1, **options: float) -> Fitness:
    search = SearchData(tuple(train), PAIRS[:10], PAIRS[:10])
    return RetrievalFitness(search, seed=seed, **options)  # type: ignore[arg-type]


def test_the_loss_is_the_cross_entropy_of_the_right_document() -> None:
    pairs = PAIRS[:20]
    queries = np.rint(embed([p.query for p in pairs]).astype(np.float64) * 2**20) / 2**20
    documents = np.rint(embed([p.document for p in pairs]).astype(np.float64) * 2**20) / 2**20
    logits = queries @ documents.T / 0.05
    expected = logits.diagonal() - np.log(np.exp(logits).sum(axis=1))
    evaluation = fitness().evaluate(embed, pairs)
    assert evaluation.items == pytest.approx(expected.tolist(), abs=1e-10)
    assert evaluation.score == pytest.approx(expected.mean(), abs=1e-10)
    assert all(item < 0 for item in evaluation.items)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.permutations(range(40)))
def test_the_order_of_the_pairs_changes_no_bit(order: list[int]) -> None:
    straight = fitness().evaluate(embed, PAIRS[:40])
    shuffled = fitness().evaluate(embed, [PAIRS[n] for n in order])
    assert shuffled.items == tuple(straight.items[n] for n in order)
    assert shuffled.score == straight.score


def test_the_score_has_the_bits_that_it_has_on_every_machine() -> None:
    rows = np.array([[3, 4, 0], [0, 3, 4], [4, 0, 3], [0, 4, 3], [3, 0, 4], [4, 3, 0]], dtype=np.float32)
    table = dict(zip(["a", "b", "c", "A", "B", "C"], rows / np.float32(5), strict=True))
    pairs = [Pair(name, name.upper()) for name in "abc"]
    score = fitness(temperature=0.3).evaluate(lambda texts: np.stack([table[text] for text in texts]), pairs).score
    assert score.hex() == "-0x1.755763f162addp+0"


def test_queries_come_before_documents_in_one_call_and_no_text_twice() -> None:
    calls: list[list[str]] = []

    def recorded(texts: Sequence[str]) -> NDArray[np.float32]:
        calls.append(list(texts))
        return embed(texts)

    pairs = [Pair("one", "one and more"), Pair("two", "one and more"), Pair("one", "two"), Pair("three", "four")]
    fitness().evaluate(recorded, pairs)
    assert calls == [["one", "two", "three", "one and more", "four"]]


def test_right_answers_do_not_count_against_each_other() -> None:
    pairs = [*PAIRS[:8], Pair(PAIRS[0].query, PAIRS[9].document), Pair(PAIRS[9].query, PAIRS[1].document)]
    items = fitness().evaluate(embed, pairs).items
    only_first = [*PAIRS[:8], Pair(PAIRS[9].query, PAIRS[1].document)]
    assert items[0] == fitness().evaluate(embed, only_first).items[0]
    twice = [*PAIRS[:8], PAIRS[0]]
    assert fitness().evaluate(embed, twice).items[:8] == fitness().evaluate(embed, PAIRS[:8]).items


def test_a_model_to_which_all_texts_are_the_same_is_no_better_than_chance() -> None:
    def same(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.tile(embed(["x"]), (len(texts), 1))

    assert fitness().evaluate(same, PAIRS[:64]).score == pytest.approx(-math.log(64))


def test_batches_differ_and_repeat_and_do_not_depend_on_the_order_of_train() -> None:
    batches = [fitness().batch(number) for number in range(20)]
    assert all(len(set(batch)) == 64 for batch in batches)
    assert len(set(batches)) == 20
    assert [fitness(PAIRS[::-1]).batch(number) for number in range(20)] == batches
    assert fitness(seed=2).batch(0) != batches[0]
    counts = {pair: sum(pair in batch for batch in batches) for pair in PAIRS}
    assert max(counts.values()) <= 13  # 20 * 64 / 300 = 4.3 each
    assert sum(count == 0 for count in counts.values()) < 15


def test_a_batch_never_holds_a_text_twice_as_the_model_sees_it() -> None:
    train = [
        *(Pair(f"query {n}", "the same document, and then something of its own " + "x" * n) for n in range(20)),
        *(Pair("the same query", f"document {n}") for n in range(20)),
        Pair("another", "one"),
    ]
    batch = fitness(train, document_chars=48).batch(0)
    assert len(batch) == 3
    assert set(batch) <= set(train)


def test_texts_are_like_by_the_share_of_rare_words_that_they_have_in_common() -> None:
    texts = ["alpha beta", "alpha beta gamma delta", "Beta, alpha!", "gamma delta", "alpha", "alone", "alpha"]
    assert Likeness(texts).ranked(0).tolist() == [2, 1, 4, 6]
    assert Likeness(["rare common", "common much", "rare much", *["common much"] * 5]).ranked(0).tolist()[0] == 2
    assert Likeness(texts).ranked(5).tolist() == []


def test_a_batch_holds_the_likest_of_train_with_each_pair() -> None:
    families = [[Pair(f"ask {n} {m}", f"family{n} text{n} own{n}x{m}") for m in range(4)] for n in range(30)]
    train = [pair for family in families for pair in family]
    batch = fitness(train, batch_size=12, neighbours=3).batch(0)
    assert len(batch) == 12
    assert {frozenset(batch[at : at + 4]) for at in (0, 4, 8)} <= {frozenset(family) for family in families}
    alone = fitness(train, batch_size=12, neighbours=0).batch(0)
    assert len({pair.document.split()[0] for pair in alone}) > 6


def test_neighbours_that_are_the_same_text_leave_room_for_others() -> None:
    twins = [Pair(f"twin {n}", "one two three") for n in range(8)]
    others = [Pair(f"other {n}", f"one two number{n}") for n in range(3)]
    strangers = [Pair(f"stranger {n}", f"word{n // 2}") for n in range(20)]
    by_chance = fitness([*twins, *others, *strangers], batch_size=4, neighbours=3)
    batches = [by_chance.batch(number) for number in range(30)]
    with_twins = [batch for batch in batches if batch[0] in twins]
    assert with_twins
    assert all(set(batch[1:]) == set(others) for batch in with_twins)


def test_a_small_train_part_gives_all_its_pairs() -> None:
    assert set(fitness(PAIRS[:5]).batch(7)) == set(PAIRS[:5])


@settings(derandomize=True, deadline=None)
@given(st.text("ab c"), st.integers(1, 12))
def test_a_shortened_text_is_the_beginning_of_the_text_and_ends_with_a_word(text: str, characters: int) -> None:
    short = shorten(text, characters)
    assert len(short) <= characters
    assert text.startswith(short)
    if len(text) > characters and " " in text[: characters + 1].strip():
        assert text[len(short)] == " "


def test_as_many_whole_words_are_kept_as_fit() -> None:
    assert [shorten("ab cd ef", characters) for characters in (1, 2, 4, 5, 7, 8)] == [
        *("a", "ab", "ab", "ab cd", "ab cd", "ab cd ef"),
    ]


@pytest.mark.parametrize(
    "vectors",
    [
        np.full((4, DIM), np.nan),
        np.zeros((4, DIM)),
        np.full((4, DIM), np.inf),
        2 * embed("abcd"),
        embed("abc"),
        [1] * 4,
    ],
)
def test_what_is_no_embedding_is_refused(vectors: NDArray[np.float32]) -> None:
    with pytest.raises(InputError, match=r"got an array of shape|of length 1"):
        fitness().evaluate(lambda _texts: np.asarray(vectors, np.float32), PAIRS[:2])


def test_numbers_out_of_range_are_refused() -> None:
    for options in ({"temperature": 0.0}, {"temperature": math.nan}, {"batch_size": 1}, {"document_chars": 0}):
        with pytest.raises(InputError, match=r"expected a|too small"):
            fitness(**options)
    with pytest.raises(InputError, match="seed"):
        fitness(seed=-1)
    with pytest.raises(InputError, match="two or more"):
        fitness().evaluate(embed, PAIRS[:1])


@settings(derandomize=True, deadline=None)
@given(st.lists(st.floats(-710, 0), min_size=1))
def test_the_portable_exponential_is_that_of_the_c_library(values: list[float]) -> None:
    expected = [math.exp(value) if value >= -700 else 0.0 for value in values]
    assert portable_math.exp(np.array(values)).tolist() == pytest.approx(expected, rel=2e-13, abs=0)


def test_the_portable_exponential_of_the_ends() -> None:
    assert portable_math.exp(np.array([0.0, -np.inf])).tolist() == [1.0, 0.0]


@given(st.floats(1e-300, 1e300))
@settings(derandomize=True, deadline=None)
def test_the_portable_logarithm_is_that_of_the_c_library(value: float) -> None:
    assert portable_math.ln(value) == pytest.approx(math.log(value), rel=1e-15, abs=1e-16)


def test_the_runtime_scores_the_same_bits_every_time() -> None:
    with RustNeuralBridge() as bridge:
        bridge.initialize(tiny_model())
        machine = bridge.client()
        first, second = (fitness().evaluate(lambda texts: machine.embed(texts).vectors, PAIRS[:n]) for n in (70, 70))
    assert first == second
    assert math.isfinite(first.score)
