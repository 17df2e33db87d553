"""Tiers: which tensors a search changes, how, and by how much, cheapest and safest first. The default numbers are here.

A tier applies to any model; `search_space` finds its tensors on one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from vboot.errors import InputError
from vboot.protocol.tables import RANK_LIMIT

TierForm: TypeAlias = Literal["normal", "scale", "step", "low_rank"]

TIER_FORMS: tuple[TierForm, ...] = get_args(TierForm)


@dataclass(frozen=True)
class Tier:
    """Noise of one form on the tensors that some patterns match. Raises InputError for invalid numbers.

    tensors: exact names or globs; `{last}` is replaced by the number of the model's last block. Matched tensors that
        the form cannot change (another type, protected) are left out.
    sigma: size of the noise, the `scale` of a seeded edit: the noise has the standard deviation sigma * sqrt(1/2) on
        each weight (`normal`, `low_rank`), or relative to each block's scale (`scale`). Unused for `step`, where it is
        1.
    density: share of the elements or blocks changed. Unused for `low_rank`, where it is 1.
    rank: rank of the noise on one matrix, for `low_rank` only.
    """

    name: str
    form: TierForm
    tensors: tuple[str, ...]
    sigma: float = 1.0
    density: float = 1.0
    rank: int = 1

    def __post_init__(self) -> None:
        wrong = [
            says
            for holds, says in (
                (self.form in TIER_FORMS, f"its form is not one of {', '.join(TIER_FORMS)}"),
                (bool(self.tensors), "it names no tensors"),
                (0 < self.sigma <= 1e6, "its sigma is not above 0 and at most a million"),
                (self.form != "step" or self.sigma == 1, "steps need a sigma of 1"),
                (0 < self.density <= 1, "its density is not above 0 and at most 1"),
                (self.form != "low_rank" or self.density == 1, "low rank needs a density of 1"),
                (1 <= self.rank <= RANK_LIMIT, f"its rank is not 1 to {RANK_LIMIT}"),
                (self.form == "low_rank" or self.rank == 1, "only low rank has a rank other than 1"),
            )
            if not holds
        ]
        if wrong:
            raise InputError(f"the tier {self.name!r:.40} is not valid: {wrong[0]}", remedy="correct its numbers")


_MATRICES = "blk.*[!m].weight"
"""All weights of blocks except norms."""

STANDARD_TIERS: Mapping[str, Tier] = {
    tier.name: tier
    for tier in (
        Tier("output", "normal", ("blk.{last}.layer_output_norm.*", "output_norm.*"), sigma=0.02),
        Tier("norms", "normal", ("*_norm.weight", "*_norm.bias"), sigma=0.01),
        Tier("scales", "scale", (_MATRICES,), sigma=0.01),
        Tier("codes", "step", (_MATRICES,), density=0.3),
        Tier("low_rank", "low_rank", (_MATRICES,), sigma=1e-3),
    )
}
