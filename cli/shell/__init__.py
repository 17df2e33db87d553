"""`vboot shell`; the verb itself is `cli.shell.verb`."""

from cli.shell.verb import configure, run

__all__ = ["configure", "run"]
