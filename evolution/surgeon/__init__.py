"""Operations on the weights in a GGUF file: `GGUFSurgeon` reads one file and writes another."""

from evolution.surgeon.surgeon import GGUFSurgeon

__all__ = ["GGUFSurgeon"]
