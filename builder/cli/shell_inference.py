"""What the commands of the shell do that run the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from builder.cli.answer import Answer
from builder.cli.embedding_answers import embeddings_answer, similarity_answer
from evolution.client import Machine


def _embed(machine: Machine, values: Mapping[str, Any]) -> Answer:
    texts: list[str] = values["text"]
    return embeddings_answer(texts, machine.embed(texts))


def _similarity(machine: Machine, values: Mapping[str, Any]) -> Answer:
    text, other = values["text"], values["other"]
    return similarity_answer(text, other, machine.embed([text, other]))


COMMANDS: Mapping[str, Callable[[Machine, Mapping[str, Any]], Answer]] = {"embed": _embed, "similarity": _similarity}
