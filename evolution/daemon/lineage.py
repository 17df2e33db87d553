"""The run's lineage: the accepted moves, stored in its folder, and how to reconstruct the weights from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evolution.daemon import kernel_stage
from evolution.daemon.follower import AcceptedMove, Course
from evolution.daemon.identity import stand_in_embeddings
from evolution.daemon.reconcile import Reference
from evolution.daemon.run_folder import EvolutionRunFolder
from evolution.daemon.run_state import Kind, Move, RunState
from evolution.daemon.shadow import Shadow, Weights
from evolution.daemon.weights_file import write_weights
from evolution.fitness.contract import Fitness
from vboot.weights.edits import Edit

_PROBES = 4


class Lineage:
    """The state of a run and its folder. `state` is the last saved state; None before the run has begun."""

    def __init__(self, folder: EvolutionRunFolder, model: Path, state: RunState | None) -> None:
        self.folder = folder
        self.state = state
        self._model = model

    def ways(self) -> tuple[Weights, ...]:
        """The ways to reconstruct the parent's weights: from the newest snapshot, and from the model itself."""
        if self.state is None:
            return (Weights(self._model, lambda: (), None),)
        way = Weights(self._model, lambda: self._edits(0), self.state.model)
        moves = self.state.snapshot
        if not moves:
            return (way,)
        return (Weights(self.folder.snapshot(moves), lambda: self._edits(moves), self.state.model), way)

    def accept(
        self, state: RunState, move: str, kind: Kind, edits: Sequence[Edit], *, confidence: float, model: str
    ) -> RunState:
        """`state` with one more move, which leads to this digest; the edits are saved, the state is not yet."""
        sha256 = self.folder.save_edits(len(state.lineage) + 1, edits)
        return replace(state, lineage=(*state.lineage, Move(move, kind, state.generation, confidence, sha256, model)))

    def save(self, state: RunState) -> None:
        """Save the state; this commits everything before."""
        self.folder.save(state)
        self.state = state

    def snapshot(self, shadow: Shadow) -> None:
        """Save the parent's weights as a file, so that its moves need not be applied again.

        Raises InputError, ToolError.
        """
        state = self._state
        moves = len(state.lineage)
        if not moves or moves == state.snapshot:
            return
        write_weights(self._model, reference(shadow), self.folder.snapshot(moves))
        self.save(replace(state, snapshot=moves))
        self.folder.forget_snapshots(but=moves)

    def newest_model(self) -> Path:
        """The newest file with the run's weights: a snapshot, or the model itself."""
        moves = self._state.snapshot
        return self.folder.snapshot(moves) if moves else self._model

    def course(self, run: str, shadow: Shadow, fitness: Fitness, *, watched_pairs: int) -> Course:
        """The run as a body is to follow it."""
        state = self._state

        def step(number: int) -> AcceptedMove:
            move = state.lineage[number - 1]
            return AcceptedMove(
                number, move.id, move.kind, self.folder.edits(number, move), move.confidence, move.model
            )

        def watched() -> tuple[list[str], NDArray[np.float32]]:
            texts = _texts(fitness, watched_pairs)
            return texts, shadow.run(lambda: shadow.embed(texts))

        kernel = None if state.kernel is None else kernel_stage.load(state.kernel)

        def probes() -> list[tuple[bytes, bytes]]:
            return [] if kernel is None else list(kernel_stage.probes(kernel, watched()[1][:_PROBES]))

        return Course(run, state.models(), step, reference(shadow), watched, kernel, probes)

    def _edits(self, start: int) -> list[tuple[Edit, ...]]:
        lineage = self._state.lineage
        return [self.folder.edits(number + 1, lineage[number]) for number in range(start, len(lineage))]

    @property
    def _state(self) -> RunState:
        assert self.state is not None, "the run has begun"
        return self.state


def reference(shadow: Shadow) -> Reference:
    """The parent's weights as a reference for bodies and files."""
    return Reference(shadow.digest, shadow.terrain, shadow.digests, shadow.read)


def _texts(fitness: Fitness, pairs: int) -> list[str]:
    """The texts that the fitness embeds for the first pairs of the watch data, in the form that models get."""
    seen: list[str] = []

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        seen.extend(texts)
        return stand_in_embeddings(texts)

    fitness.evaluate(embed, fitness.search.watch[:pairs])
    return seen
