"""Which requests may be made again when no reply comes, and how it is told that this did not help."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from vboot.protocol.errors import MachineError, MachineTimeoutError

RUNS = frozenset({"embed", "execute_pixels"})
"""Methods that run the network: they may take long, and can be cancelled."""
IDEMPOTENT = RUNS | {"hello", "stats", "tensors", "read", "digest", "subscribe", "history", "renew", "checkpoint"}
"""Methods that change nothing more when they are done twice."""
NAMED = frozenset({"mutate", "rollback", "promote", "upload"})
"""Methods whose id makes it safe to repeat them: what was done is answered as before, and not done again."""
ATTEMPTS = 3
"""How often a request of `IDEMPOTENT` or `NAMED` is made."""


def patience(method: str, attempts: int, deadline: float) -> float:
    """Until when the reply of this attempt is waited for: one that may be repeated leaves time for it."""
    if method not in NAMED:
        return deadline
    now = time.monotonic()
    return now + (deadline - now) / attempts


def uncertain(method: str, params: Mapping[str, Any], error: MachineError) -> MachineError:
    """The error as its caller should see it: what was repeated did not help, the rest may have been done."""
    if method in IDEMPOTENT or (isinstance(error, MachineTimeoutError) and method not in NAMED):
        return error
    what = f"{error.what} while {method} was under way: it may or may not have been done"
    if method in NAMED:
        return type(error)(
            what, remedy=f"repeat it with the id {params.get('id') or params.get('upload')}, which never does it twice"
        )
    return type(error)(what, remedy="look before you repeat it")
