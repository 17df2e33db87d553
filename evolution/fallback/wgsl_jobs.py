"""Messages between `wgsl_device` and `wgsl_child`.

They have a module of their own because pickle needs one name for a class: in the child `wgsl_child` is `__main__`."""

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
    """The outcome of a job: results f32 (n, dim) if it had vectors, or in `text` why the shader is refused."""

    outcome: Literal["done", "refused", "no adapter"]
    text: str = ""
    results: NDArray[np.float32] | None = None
