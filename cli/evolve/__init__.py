"""`vboot evolve`; the verb itself is `cli.evolve.verb`."""

from cli.evolve.verb import configure, run

__all__ = ["configure", "run"]
