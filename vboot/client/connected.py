"""A machine that is connected: any request of the protocol, with a time limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from vboot.client.link import Link
from vboot.client.requests import Reply
from vboot.client.session import PROTOCOL, Session
from vboot.client.signer import Signer
from vboot.protocol.decoding import decode
from vboot.protocol.messages import Hello

TIMEOUT_S = 10.0
"""Seconds that a request may take, unless the caller says otherwise."""


class Connected:
    """A machine connected through `open_link`, until `close`."""

    def __init__(
        self,
        open_link: Callable[[float], Link],
        *,
        timeout: float = TIMEOUT_S,
        client: str = "vboot",
        check: Callable[[], None] = lambda: None,
        silence: Callable[[], float | None] = lambda: None,
        signer: Signer | None = None,
    ) -> None:
        self.timeout = timeout
        """Seconds that a request may take."""
        self.signer = signer
        """Signs changes, if the machine takes signed ones only."""
        self._client = client
        self._session = Session(open_link, client=client, check=check, silence=silence)
        try:
            self._session.establish(self._deadline(None))
        except BaseException:
            self._session.close()
            raise

    @property
    def greeted(self) -> Hello:
        """The reply to `hello` when the connection was last made; the method `hello` asks again."""
        assert self._session.hello is not None, "set by establish"
        return self._session.hello

    def request(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        blob: bytes | None = None,
        *,
        timeout: float | None = None,
        id: str | None = None,  # noqa: A002
    ) -> Reply:
        """Send any request of the protocol and return its reply. `id`: the id of the request (None: a random one)."""
        return self._session.request(method, params or {}, blob, self._deadline(timeout), id)

    def hello(self) -> Hello:
        """Version, generation, limits and state of the machine."""
        return decode(Hello, self.request("hello", {"protocol": PROTOCOL, "client": self._client}).result, name="hello")

    def is_alive(self) -> bool:
        """Whether the machine is connected or listens; nothing is sent."""
        return self._session.is_alive()

    def close(self) -> None:
        """Disconnect; the machine keeps running."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self.timeout if timeout is None else timeout)
