"""Experiments on the real model, reported in docs/: what evolution reaches, and its limits."""
