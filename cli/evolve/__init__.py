"""`vboot evolve`; the verb itself is `cli.evolve.verb`."""

from cli.evolve.options import configure
from cli.evolve.verb import run

__all__ = ["configure", "run"]
