"""Trying edits in a shadow: a real runtime in a child process, left as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from evolution.ctrm.contract import Candidate, Facts
from evolution.ctrm.judge import judge
from evolution.ctrm.shadow import evaluate_shadow, measure, trying
from evolution.fitness.contract import Embed, Evaluation, Pair, SearchData
from evolution.fitness.retrieval import RetrievalFitness
from vboot.client.bridge import RustNeuralBridge
from vboot.client.machine import MachineClient
from vboot.protocol.errors import RequestRefusedError
from vboot.weights.arithmetic import TensorData, apply
from vboot.weights.edits import Dense, Edit, Seeded

WORDS = ("kernel", "shell", "editor", "compiler", "archive", "network", "printer", "sound", "image", "video", "font")
PAIRS = tuple(Pair(f"a {word} for people", f"this package holds the {word} and what it needs") for word in WORDS)
FITNESS = RetrievalFitness(SearchData(PAIRS[:2], PAIRS, PAIRS[:2]), seed=1)

HARMLESS = Seeded("blk.*.weight", "00000000000000aa", "normal", 1.0, 1e-4)
HARMFUL = Seeded("*.weight", "00000000000000aa", "normal", 1.0, 0.5)


@pytest.fixture(scope="module")
def bridge(library: Path) -> Iterator[RustNeuralBridge]:
    with RustNeuralBridge(library=library, energy=False, faults=True) as bridge:
        bridge.initialize()
        yield bridge


@pytest.fixture
def shadow(bridge: RustNeuralBridge) -> Iterator[MachineClient]:
    with bridge.client() as machine:
        before = machine.digest().model
        yield machine
        assert machine.digest().model == before


def make_candidate(bridge: RustNeuralBridge, edits: Sequence[Edit], base: int) -> Candidate:
    before = {
        name: TensorData(name, place.type, place.shape, bridge.tensor(name).tobytes())
        for name, place in bridge.tensors().items()
        if name.endswith(".weight")
    }
    return Candidate(tuple(edits), base, before, apply(edits, before, ()))


def test_it_measures_the_calibration_data_before_and_after(shadow: MachineClient) -> None:
    result = evaluate_shadow(shadow, [HARMLESS], FITNESS)
    assert result.before == measure(shadow, FITNESS)
    assert result.after is not None
    assert len(result.after.items) == len(PAIRS)
    assert result.after.items != result.before.items
    with trying(shadow, [HARMLESS]):
        assert measure(shadow, FITNESS) == result.after
        assert measure(shadow, FITNESS, PAIRS[:4]).items != result.after.items[:4]
    assert evaluate_shadow(shadow, [HARMLESS], FITNESS, before=result.before) == result


def test_the_mean_cosine_is_that_of_the_texts(shadow: MachineClient) -> None:
    texts = [text for pair in PAIRS for text in (pair.query, pair.document)]
    vectors = shadow.embed(texts).vectors.astype(np.float64)
    expected = (vectors @ vectors.T)[~np.eye(len(texts), dtype=bool)].mean()
    assert measure(shadow, FITNESS).mean_cosine == pytest.approx(expected, abs=1e-6)


def test_judged_with_a_shadow_a_harmless_change_is_admitted_and_a_harmful_one_refused(
    bridge: RustNeuralBridge, shadow: MachineClient
) -> None:
    terrain, base = shadow.tensors(), shadow.hello().generation
    judged = [
        judge(make_candidate(bridge, [edit], base), Facts(terrain, shadow=evaluate_shadow(shadow, [edit], FITNESS)))
        for edit in (HARMLESS, HARMFUL)
    ]
    assert judged[0].admitted, judged[0]
    assert judged[0].confidence > 0.99
    assert not judged[1].admitted
    assert judged[1].confidence == 0
    assert judged[1].refusal is not None


def test_a_change_that_leaves_no_finite_embedding_is_found(shadow: MachineClient) -> None:
    norm = shadow.tensor("token_embd_norm.weight")
    huge = np.full(norm.shape, 3e38, "<f4").tobytes()
    result = evaluate_shadow(shadow, [Dense(norm.name, 0, huge)], FITNESS)
    assert result.after is None


def test_what_the_machine_refuses_changes_nothing(shadow: MachineClient) -> None:
    with pytest.raises(RequestRefusedError) as refused:
        evaluate_shadow(shadow, [Seeded("kernel.0", "00000000000000aa", "normal", 1.0, 1.0)], FITNESS)
    assert refused.value.code in (1002, 1019)


def test_a_shadow_that_dies_in_the_evaluation_gives_the_same_result(
    bridge: RustNeuralBridge, shadow: MachineClient
) -> None:
    class Killing(RetrievalFitness):
        def evaluate(self, embed: Embed, pairs: Sequence[Pair]) -> Evaluation:
            bridge.inject_fault("segv-before")
            return super().evaluate(embed, pairs)

    expected, pid = evaluate_shadow(shadow, [HARMLESS], FITNESS), bridge.pid
    assert evaluate_shadow(shadow, [HARMLESS], Killing(FITNESS.search, seed=1)) == expected
    assert bridge.pid != pid


def test_an_error_of_the_evaluation_leaves_the_shadow_as_it_was(shadow: MachineClient) -> None:
    with pytest.raises(ZeroDivisionError), trying(shadow, [HARMFUL]):
        raise ZeroDivisionError
