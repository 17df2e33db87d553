"""A request of the protocol: its message, which replies are its own, and whether it may be sent again."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vboot.protocol.errors import (
    MachineBusyError,
    MachineError,
    MachineTimeoutError,
    ProtocolError,
    RequestRefusedError,
)
from vboot.protocol.framing import Bytes, Message
from vboot.protocol.tables import METHODS, Code


@dataclass(frozen=True)
class Uploaded:
    """A complete upload, by its id (32 hex digits), in place of the blob of a request."""

    id: str


@dataclass(frozen=True)
class Reply:
    """The reply to a request: the members of `result`, and the blob if there is one."""

    result: Mapping[str, Any]
    blob: bytes | None = None


@dataclass(frozen=True)
class Request:
    """A request. `ident` is the id that its reply repeats, a random one unless given."""

    method: str
    params: Mapping[str, Any]
    blob: Bytes | Uploaded | None = None
    ident: str = field(default_factory=lambda: secrets.token_hex(8))

    def members(self) -> dict[str, Any]:
        """The members of its line, without the size of a blob that follows it."""
        uploaded = {"blob": {"upload": self.blob.id}} if isinstance(self.blob, Uploaded) else {}
        return {"jsonrpc": "2.0", "id": self.ident, "method": self.method, "params": self.params} | uploaded

    def bytes_after_line(self) -> Bytes | None:
        """The blob that follows the line, if there is one."""
        return None if isinstance(self.blob, Uploaded) else self.blob


def parse_reply(message: Message) -> Reply:
    """The result of a reply. Raises RequestRefusedError for an error, ProtocolError if it is neither."""
    result, error = message.members.get("result"), message.members.get("error")
    if isinstance(result, dict) and error is None:
        return Reply(result, message.blob)
    if isinstance(error, dict) and type(error.get("code")) is int and isinstance(error.get("message"), str):
        data = error.get("data")
        names = data.get("clients") if isinstance(data, dict) else None
        if error["code"] == Code.BUSY and isinstance(names, list):
            raise MachineBusyError(tuple(map(str, names)))
        raise RequestRefusedError(error["code"], error["message"], data)
    raise ProtocolError("the machine's reply has neither a result nor an error", remedy="report this bug")


def refusal_code(message: Message) -> int | None:
    """The code of an error reply without an id: the machine could not read a request, or refuses the connection."""
    error = message.members.get("error")
    code = error.get("code") if message.members.get("id") is None and isinstance(error, dict) else None
    return code if type(code) is int else None


def repeatable(method: str) -> Literal["safe", "by_id", "never"]:
    """Whether a request of this method may be sent again; not if we do not know the method."""
    return METHODS[method].repeat if method in METHODS else "never"


def attempt_deadline(method: str, attempts: int, deadline: float) -> float:
    """How long to wait for the reply to this attempt: a method that is repeated by its id needs time for the others."""
    if repeatable(method) != "by_id":
        return deadline
    now = time.monotonic()
    return now + (deadline - now) / attempts


def final_error(method: str, params: Mapping[str, Any], error: MachineError) -> MachineError:
    """The error of a request that is not repeated any more; it says whether the machine may have done the request."""
    if repeatable(method) == "safe" or (isinstance(error, MachineTimeoutError) and repeatable(method) != "by_id"):
        return error
    during = "" if isinstance(error, MachineTimeoutError) else f" during {method}"
    what = f"{error.what}{during}: it may or may not have been done"
    if repeatable(method) == "by_id":
        ident = params.get("id") or params.get("upload")
        return type(error)(what, remedy=f"repeat it with the id {ident}: the machine never does it twice")
    return type(error)(what, remedy="check the state of the machine before you repeat it")
