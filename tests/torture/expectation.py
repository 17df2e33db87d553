"""The expected reply to a request, and its comparison with the actual one. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

STALE, NOT_KEPT = 1007, 1014


class DeviationError(Exception):
    """The machine did not answer as predicted."""


@dataclass(frozen=True)
class State:
    """The weights of one generation: bytes by tensor, their SHA-256, and the digest of the model."""

    data: Mapping[str, bytes]
    sha256: Mapping[str, bytes]
    model: str


@dataclass(frozen=True)
class Request:
    """A request as it is sent, its origin, and the expected reply.

    `code`: of the expected refusal, 0 for none. `result`: members that the result must have, with these values.
    `generation`: the one current after it. `resent`: its first reply is lost, so it may have been done already.
    """

    cycle: int
    method: str
    params: Mapping[str, Any]
    blob: bytes = b""
    code: int = 0
    result: Mapping[str, Any] | None = None
    generation: int = 0
    wrong_crc: bool = False
    resent: bool = False


def check(request: Request, reply: Mapping[str, Any], blob: bytes | None, state: Callable[[int], State]) -> None:
    """Raise DeviationError unless this is the reply predicted. `state` returns the weights of any recent generation."""
    error, result = reply.get("error"), reply.get("result")
    if isinstance(error, dict):
        _check_refusal(request, error)
        return
    if not isinstance(result, dict):
        raise DeviationError(f"{request.method} was answered {reply!r:.200}")
    if request.code:
        raise DeviationError(
            f"{request.method} should be refused with {request.code}, and was answered {result!r:.200}"
        )
    if request.method in ("digest", "read"):
        _check_weights(request, result, blob, state)
        return
    expected = dict(request.result or {})
    if request.resent and "replayed" in result:
        expected["replayed"] = result["replayed"]
    wrong = [name for name, value in expected.items() if result.get(name) != value]
    if wrong:
        found = {name: result.get(name) for name in wrong}
        predicted = {name: expected[name] for name in wrong}
        raise DeviationError(f"{request.method} was answered {found}, not {predicted}")


def _check_refusal(request: Request, error: Mapping[str, Any]) -> None:
    code = error.get("code")
    if code == request.code:
        return
    # Repeated after later changes, a bad request is refused as stale first; a trial may be over.
    late = request.resent and ((request.code and code == STALE) or (request.method == "renew" and code == NOT_KEPT))
    if not late:
        expected = f"refused with {request.code}" if request.code else "accepted"
        raise DeviationError(
            f"{request.method} should be {expected}, and was refused: {error.get('message')} (code {code})"
        )


def _check_weights(
    request: Request, result: Mapping[str, Any], blob: bytes | None, state: Callable[[int], State]
) -> None:
    generation = result.get("generation")
    later = request.resent and isinstance(generation, int) and generation >= request.generation
    if not isinstance(generation, int) or (generation != request.generation and not later):
        raise DeviationError(f"{request.method} reports generation {generation}, not {request.generation}")
    weights = state(generation)
    if request.method == "digest":
        if result.get("model") != weights.model:
            raise DeviationError(f"the model's digest is {result.get('model')}, not {weights.model}")
        return
    name = request.params["tensor"]
    if blob != weights.data[name]:
        places = [at for at, (a, b) in enumerate(zip(blob or b"", weights.data[name], strict=False)) if a != b]
        where = f"byte {places[0]} and {len(places) - 1} more" if places else "their number"
        raise DeviationError(f"the bytes of {name} are wrong in {where}")


def model_digest(sha256: Mapping[str, bytes]) -> str:
    """SHA-256 over all tensors in name order of name, 0x00, SHA-256 of the bytes."""
    return hashlib.sha256(b"".join(name.encode() + b"\0" + sha256[name] for name in sorted(sha256))).hexdigest()
