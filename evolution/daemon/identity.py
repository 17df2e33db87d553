"""The settings that identify a run: a run can only be resumed with the same ones. Only reads the model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolution.daemon.config import DaemonConfig, StrategyPlan
from evolution.fitness.contract import Fitness, Pair
from vboot.errors import InputError
from vboot.text import path_text


def settings(
    model: Path, fitness: Fitness, plan: StrategyPlan, config: DaemonConfig, *, version: str
) -> dict[str, Any]:
    """The settings of a run as JSON values. Raises InputError when the model cannot be read."""
    return {
        "daemon": version,
        "model": file_sha256(model),
        "data": _data_digest(fitness),
        "strategy": plan.name,
        "seed": plan.seed,
        "options": options(plan),
        "tiers": [asdict(tier) for tier in plan.tiers],
        **config.deciding(),
        # Last, so that a difference with a more specific name is reported first.
        "fitness": fingerprint(fitness),
    }


def options(plan: StrategyPlan) -> Any:
    """The options of a strategy as JSON values."""
    return json.loads(json.dumps(dict(plan.options), default=repr, sort_keys=True))


def fingerprint(fitness: Fitness) -> str:
    """SHA-256 (hex) of a fitness's data, and of its texts and scores on two batches with stand-in embeddings.

    So its private settings count too: they show in the texts that it embeds and in its scores.
    """
    digest = hashlib.sha256(type(fitness).__qualname__.encode())

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        digest.update(json.dumps(list(texts)).encode())
        return stand_in_embeddings(texts)

    digest.update(_data_digest(fitness).encode())
    for number in (0, 1):
        pairs = fitness.batch(number)
        digest.update(_digest(pairs) + repr(fitness.evaluate(embed, pairs).items).encode())
    return digest.hexdigest()


def stand_in_embeddings(texts: Sequence[str]) -> NDArray[np.float32]:
    """Vectors f32 (n, 8) of length 1 computed from each text's hash, to run a fitness without a model."""
    digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
    values = np.frombuffer(b"".join(digests), "<i4").reshape(-1, 8).astype(np.float64)
    unit: NDArray[np.float32] = (values / np.sqrt((values * values).sum(axis=1, keepdims=True))).astype(np.float32)
    return unit


def _data_digest(fitness: Fitness) -> str:
    data = fitness.search
    return hashlib.sha256(b"".join(_digest(part) for part in (data.train, data.calibration, data.watch))).hexdigest()


def _digest(pairs: Sequence[Pair]) -> bytes:
    return hashlib.sha256(json.dumps([[pair.query, pair.document] for pair in pairs]).encode()).digest()


def file_sha256(path: Path) -> str:
    """The SHA-256 (hex) of a model file. Raises InputError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        what = f"the model {path_text(path)} cannot be read ({error.strerror or error})"
        raise InputError(what, remedy="check the path of the model's GGUF file") from error
