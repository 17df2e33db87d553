"""Operations on the weights in a GGUF file: `GGUFSurgeon` reads it, computes, and writes another in its place."""

from evolution.surgeon.surgeon import GGUFSurgeon

__all__ = ["GGUFSurgeon"]
