"""Settings for all tests."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Restore SIGINT and SIGHUP, which a background job or nohup leaves ignored.

    Child processes inherit an ignored signal, and the tests that send it to them would wait until their time limit.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
