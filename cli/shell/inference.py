"""What the commands of the shell do that run the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cli.answer import Answer, filled
from cli.embedding_answers import embeddings_answer, similarity_answer, warn_of_truncation
from vboot.client.machine import MachineClient
from vboot.errors import InputError
from vboot.weights.pixels import assemble, disassemble

SHOWN = 8
"""Numbers of a result that are shown to a person."""


def _embed(machine: MachineClient, values: Mapping[str, Any]) -> Answer:
    texts: list[str] = values["text"]
    made = machine.embed(texts)
    warn_of_truncation(made)
    return embeddings_answer(texts, made)


def _similarity(machine: MachineClient, values: Mapping[str, Any]) -> Answer:
    text, other = values["text"], values["other"]
    made = machine.embed([text, other])
    warn_of_truncation(made)
    return similarity_answer(text, other, made)


def _run(machine: MachineClient, values: Mapping[str, Any]) -> Answer:
    lines: list[str] = values["line"]
    file = Path(lines[0])
    text = file.read_text("utf-8") if len(lines) == 1 and file.is_file() else "\n".join(lines)
    ran = machine.execute_pixels(assemble(text))
    floats = np.frombuffer(ran.output, "<f4")
    shown = " ".join(f"{value:.6g}" for value in floats[:SHOWN])
    more = f" ... ({len(floats)} numbers)" if len(floats) > SHOWN else ""
    steps = f"{ran.steps} instruction{'' if ran.steps == 1 else 's'}"
    return Answer(
        {"result": ran.result, "steps": ran.steps, "output": floats.tolist()},
        f"{filled(shown + more)}\n{steps}".strip(),
    )


def _disassemble(machine: MachineClient, values: Mapping[str, Any]) -> Answer:
    slot = values["slot"]
    data = machine.read(slot).data
    count = int.from_bytes(data[:4], "little")
    if not slot.startswith(("kernel.", "evolved.")) or 4 + 3 * count > len(data):
        raise InputError(f"{slot} holds no pixel program", remedy="name one of kernel.0 to 7 or evolved.0 to 7")
    text = disassemble(data[4 : 4 + 3 * count])
    return Answer({"slot": slot, "pixels": count, "text": text}, text.rstrip() or f"{slot} is empty")


COMMANDS: Mapping[str, Callable[[MachineClient, Mapping[str, Any]], Answer]] = {
    "embed": _embed,
    "similarity": _similarity,
    "run": _run,
    "disassemble": _disassemble,
}
