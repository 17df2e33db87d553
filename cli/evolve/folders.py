"""The default folder of a run: its name tells the model, the data, and what else makes it another run."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from builder.manifest import NAME as MANIFEST
from builder.plan import TENSORS_NAME
from cli.evolve.data import DEBIAN, known_pairs
from cli.evolve.runs import find_origin
from evolution.daemon import identity
from evolution.daemon.config import StrategyPlan
from evolution.fitness.retrieval import BATCH_SIZE, RetrievalFitness
from vboot.errors import InputError

FOLDERS = Path("build/evolve")
"""The folder of default folders."""
TIER = "norms"


def default_folder(arguments: argparse.Namespace, model: Path, plan: StrategyPlan) -> Path:
    """The folder of the run with these arguments: the same arguments and the same model give the same folder.

    `plan`: what the arguments say. A run that an earlier version began under a shorter name is found, too, if it has
    the same settings. Raises InputError if the model cannot be read.
    """
    digest = identity.file_sha256(model)
    data = arguments.data or DEBIAN
    earlier = FOLDERS / _earlier_name(arguments, data)
    recorded = _settings_of(earlier)
    if recorded.get("model") == digest and _is_same_run(earlier, recorded, arguments, plan, data):
        return earlier
    return FOLDERS / _name(arguments, model, digest, data)


def tiers(arguments: argparse.Namespace) -> Sequence[str]:
    """The names of the tiers to search."""
    return arguments.tier or (TIER,)


def _name(arguments: argparse.Namespace, model: Path, digest: str, data: str) -> str:
    parts = [_word(_model_name(model)), digest[:8], *_data_name(data), arguments.strategy, *tiers(arguments)]
    parts.append(f"seed{arguments.seed}")
    if arguments.batch != BATCH_SIZE:
        parts.append(f"batch{arguments.batch}")
    if arguments.kernels:
        parts.append(f"kernels{arguments.kernels}")
    others = [sorted((name, repr(value)) for name, value in arguments.option or ()), [*map(str, arguments.cross or ())]]
    if any(others):
        parts.append(hashlib.sha256(json.dumps(others).encode()).hexdigest()[:6])
    return "-".join(parts)


def _data_name(data: str) -> list[str]:
    """The file's name, and the beginning of the digest of its path: files in two folders may have one name."""
    if data == DEBIAN:
        return [DEBIAN]
    return [_word(Path(data).stem), hashlib.sha256(os.fsencode(os.path.realpath(data))).hexdigest()[:6]]


def _model_name(model: Path) -> str:
    """The name of an image's model as it was built, else the file's."""
    if model.name == TENSORS_NAME:
        try:
            source = json.loads((model.parent / MANIFEST).read_bytes())["configuration"]["model"]["source"]
            return Path(source).stem if "/" in source else str(source)
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            pass
    return model.stem


def _word(text: str) -> str:
    """A text as a part of a file's name."""
    return re.sub(r"[^\w.]+", "_", text)[:40].strip("._") or "model"


def _earlier_name(arguments: argparse.Namespace, data: str) -> str:
    model = "model" if arguments.model is None else arguments.model.stem
    return "-".join((model, Path(data).stem, arguments.strategy, *tiers(arguments), str(arguments.seed)))


def _settings_of(folder: Path) -> dict[str, Any]:
    """The recorded settings of the run in a folder; none if there is no run."""
    try:
        return dict(json.loads((folder / "run.json").read_bytes())["settings"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


def _is_same_run(
    folder: Path, recorded: dict[str, Any], arguments: argparse.Namespace, plan: StrategyPlan, data: str
) -> bool:
    """Whether a run has those settings of the arguments that its short name does not tell.

    Without its pairs the size of its batches is not known; then it is assumed to be the default one.
    """
    if recorded.get("options") != identity.options(plan) or recorded.get("kernel_every") != arguments.kernels:
        return False
    try:
        origin = find_origin(folder)
    except InputError:
        origin = None  # damaged, which is reported when the run is opened
    if origin is not None and os.path.realpath(origin.data) != os.path.realpath(data):
        return False
    pairs = known_pairs(folder, data)
    if pairs is None:
        return bool(arguments.batch == BATCH_SIZE)
    fitness = RetrievalFitness(pairs.search, seed=arguments.seed, batch_size=arguments.batch)
    return bool(recorded.get("fitness") == identity.fingerprint(fitness))
