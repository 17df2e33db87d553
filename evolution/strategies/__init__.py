"""Search strategies on a running model's weights: `make` one, or `restore` it from its state."""

from evolution.strategies.registry import STRATEGIES, make, restore

__all__ = ["STRATEGIES", "make", "restore"]
