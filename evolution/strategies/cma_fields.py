"""The learnt attributes of an optimiser of the `cmaes` package, read and restored exactly. Pure.

The package saves its optimisers by pickling, and a pickle from a file may run code. So the attributes are named here (a
test compares them with all that `tell` changes). The rest follows from dimension and population, apart from the mean,
which is 0 between generations, and a history of values that only the package's stopping criterion reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from cmaes import CMA, SepCMA
from numpy.typing import NDArray

from evolution.strategies.state import bad, dump_array, in_range, load_array, members_of

Optimiser: TypeAlias = CMA | SepCMA
Variant: TypeAlias = Literal["full", "adaptive", "separable"]
Fields: TypeAlias = Mapping[str, NDArray[np.float64]]
"""Learnt values by attribute; scalars are arrays of shape ()."""

VARIANTS: tuple[Variant, ...] = get_args(Variant)

MOST = 1e9
"""The greatest magnitude of a number in a usable optimiser."""
_LEAST_EIGENVALUE_RATIO = 1e-12

_Shapes: TypeAlias = Mapping[str, Callable[[int], tuple[int, ...]]]
_PATHS: _Shapes = {"_sigma": lambda _: (), "_g": lambda _: (), "_p_sigma": lambda k: (k,), "_pc": lambda k: (k,)}
_FULL: _Shapes = {**_PATHS, "_C": lambda k: (k, k)}
_SHAPES: Mapping[Variant, _Shapes] = {
    "full": _FULL,
    "adaptive": {
        **_FULL,
        "_Emean": lambda k: (k, 1),
        "_ESigma": lambda k: (k * k, 1),
        **dict.fromkeys(("_Vmean", "_VSigma", "_eta_mean", "_eta_Sigma"), lambda _: ()),
    },
    "separable": {**_PATHS, "_C": lambda k: (k,)},
}


def optimiser(variant: Variant, dimension: int, population: int | None, sigma: float) -> Optimiser:
    """A new optimiser with mean 0 in `dimension` dimensions; `adaptive` also adapts its learning rates to noise."""
    mean = np.zeros(dimension)
    if variant == "separable":
        return SepCMA(mean=mean, sigma=sigma, seed=0, population_size=population)
    return CMA(mean=mean, sigma=sigma, seed=0, population_size=population, lr_adapt=variant == "adaptive")


def fields_of(variant: Variant, source: Optimiser) -> Fields:
    """The learnt values of an optimiser."""
    return {name: np.asarray(getattr(source, name), np.float64).copy() for name in _SHAPES[variant]}


def put_back(fields: Fields, target: Optimiser) -> None:
    """Set the learnt values of a new optimiser of the same variant, dimension and population."""
    for name, array in fields.items():
        value: Any = array.copy() if array.shape else array.item()
        setattr(target, name, int(value) if name == "_g" else value)


def learns(target: Optimiser, points: Sequence[NDArray[np.float64]], costs: Sequence[float]) -> bool:
    """Update it with the costs of points (lower is better); False if no finite mean results, as from a forged state."""
    try:
        with np.errstate(all="ignore"):
            target.tell(list(zip(points, costs, strict=True)))
    except np.linalg.LinAlgError:
        return False
    return bool((np.abs(target.mean) <= MOST).all())


def is_healthy(fields: Fields) -> bool:
    """Whether it is usable: all numbers finite and bounded, a positive step size, a positive definite covariance."""
    if not all((np.abs(array) <= MOST).all() for array in fields.values()) or fields["_sigma"] < 1 / MOST:
        return False
    if not all(0 < fields[name] <= 1 for name in ("_eta_mean", "_eta_Sigma") if name in fields):
        return False
    covariance = fields["_C"]
    if not np.allclose(covariance, covariance.T, rtol=1e-6, atol=1e-9 * float(np.abs(covariance).max())):
        return False
    variances = _variances(covariance)
    return bool(variances.min() > _LEAST_EIGENVALUE_RATIO * variances.max() and variances.min() > 1 / MOST)


def widest(fields: Fields) -> float:
    """The greatest standard deviation of the distribution over all directions."""
    return float(fields["_sigma"] * np.sqrt(_variances(fields["_C"]).max()))


def dump_fields(fields: Fields) -> dict[str, Any]:
    """The values as JSON, exact to the bit."""
    return {name.removeprefix("_"): dump_array(array) for name, array in fields.items()}


def load_fields(variant: Variant, dimension: int, members: Any) -> Fields:
    """The values that `dump_fields` wrote. Raises InputError for anything else, and for unusable values."""
    read = members_of(members, {name.removeprefix("_"): str for name in _SHAPES[variant]})
    fields = {
        name: load_array(name, read[name.removeprefix("_")], shape(dimension))
        for name, shape in _SHAPES[variant].items()
    }
    in_range("g", fields["_g"].item(), 0, MOST)
    if not fields["_g"].item().is_integer() or not is_healthy(fields):
        raise bad("its covariance or step size is not valid")
    return fields


def _variances(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    return covariance if covariance.ndim == 1 else np.asarray(np.linalg.eigvalsh(covariance), np.float64)
