"""Random histories of a machine with a state device, and the tensors of each generation, computed without pages."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from tests.support.state_devices import StateWriter, image, mutation
from tests.torture.draws import draw_cycle
from tests.torture.model import PROTECTED, gguf_bytes, tensors
from vboot.journal.entries import Kind
from vboot.journal.pages import Contents, Model, Tensors, fingerprint
from vboot.weights.arithmetic import EditError, TensorData, apply
from vboot.weights.edits import Edit, pack, parse_elements


def torture_model(path: Path, seed: int) -> dict[str, TensorData]:
    """Write a model with tensors of every type, which share pages; its tensors, and the slots of its machine."""
    made = tensors(seed)
    path.write_bytes(gguf_bytes(made))
    return made


@dataclass
class History:
    """A device, and what its entries lead to. `states`: the tensors of each generation; `pages`: their pages."""

    model: Model
    writer: StateWriter
    states: list[dict[str, TensorData]]
    pages: list[Contents] = field(default_factory=lambda: [{}])
    oldest: int = 0
    promoted: int = 0
    requests: int = 0

    @property
    def generation(self) -> int:
        return len(self.states) - 1

    def mutate(self, edits: tuple[Edit, ...]) -> bool:
        """Write a mutation, unless a machine would refuse it."""
        protected = {name: TensorData(name, "I8", (1,), b"\0") for name in PROTECTED}
        try:
            changed = apply(edits, {**self.states[-1], **protected}, PROTECTED)
        except EditError:
            return False
        state = {**self.states[-1], **{name: replace(self.states[-1][name], data=new) for name, new in changed.items()}}
        self._arrive(state, {**self.pages[-1], **self.model.written(self.pages[-1], changed)})
        members, blob = pack(edits)
        self._write(Kind.MUTATE, mutation(members, blob))
        return True

    def return_to(self, target: int, kind: Kind = Kind.ROLLBACK, *, with_image: bool = False) -> None:
        """Write a rollback, or the end of a trial."""
        self._arrive(self.states[target], self.pages[target])
        self._write(kind, image(self.pages[target]) if with_image else b"", target=target)

    def promote(self) -> None:
        """Write the promotion of the newest generation."""
        self.promoted = self.generation
        self._write(Kind.PROMOTE, target=self.generation)

    def put_image(self, *, compact: bool) -> None:
        """Write an image of the current weights; if `compact`, remove what is before it."""
        start = self.writer.start_at_next()
        unchanged = {0: self.model.page(0)}  # it changed, and changed back
        self._write(Kind.IMAGE, image({**unchanged, **self.pages[-1]}, [b"i" * 16]))
        if compact:
            self.writer.next_superblock(**start)
            self.writer.next_superblock()
            self.oldest = self.generation

    def _arrive(self, state: dict[str, TensorData], pages: Contents) -> None:
        self.states.append(state)
        self.pages.append({number: page for number, page in pages.items() if page != self.model.page(number)})

    def _write(self, kind: Kind, payload: bytes = b"", *, target: int = 0) -> None:
        self.requests += 1
        id_ = self.requests.to_bytes(16, "big") if kind is not Kind.IMAGE else bytes(16)
        values: dict[str, Any] = {"generation": self.generation, "promoted": self.promoted, "target": target, "id": id_}
        sum_ = fingerprint(self.model, self.pages[-1])
        self.writer.frame(self.writer.entry(kind, payload, fingerprint=sum_, origin=b"test", **values))


def three_generations(file: Path) -> bytearray:
    """A device of a machine with this model, which changed one element three times."""
    model = Model(file)
    states = [dict(Tensors(model, {}))]
    history = History(model, StateWriter(file=model.sha256()), states)
    for value in (0.25, 0.5, 0.75):
        assert history.mutate(parse_elements([f"blk.0.ffn_up.bias[1]={value}"]))
        history.promoted = history.generation
    return history.writer.data


def drawn(folder: Path, seed: int, steps: int) -> History:
    """A random history of a random model, which is `folder`/model.gguf."""
    made = torture_model(folder / "model.gguf", seed)
    model = Model(folder / "model.gguf")
    history = History(model, StateWriter(file=hashlib.sha256(model.data).digest()), [made])
    random = Random(seed)
    for step in range(steps):
        choice = random.random()
        if choice < 0.7 or history.generation == 0:
            for draft in draw_cycle(seed, step, made).drafts:
                history.mutate(draft.edits)
        elif choice < 0.85:
            kind = random.choice((Kind.ROLLBACK, Kind.LEASE_EXPIRED))
            target = random.choice([0, *range(history.oldest, history.generation + 1)])
            history.return_to(target, kind, with_image=random.random() < 0.3)
        elif choice < 0.95:
            history.promote()
        else:
            history.put_image(compact=random.random() < 0.5)
    return history
