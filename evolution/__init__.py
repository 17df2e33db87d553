"""Evolves the weights of a machine: strategies, fitness, checks, daemons, and the surgeon for files."""
