"""What the process of a graphics adapter is asked to do, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Job:
    """A shader to compile, and vectors f32 (n, dim) to run it on (None: only compile it)."""

    source: str
    entry_point: str
    vectors: NDArray[np.float32] | None


@dataclass(frozen=True)
class Done:
    """What came of a job: the results, f32 (n, dim), if there were vectors; or why the shader is refused."""

    outcome: Literal["done", "refused", "no adapter"]
    text: str = ""
    results: NDArray[np.float32] | None = None
