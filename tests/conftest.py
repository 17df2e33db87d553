"""Settings for all tests."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile


def pytest_configure() -> None:
    """Keep the machines of tests out of the user's register; restore SIGINT and SIGHUP.

    A background job or nohup leaves these signals ignored. Child processes inherit that, and the tests that send them
    would wait until their time limit.
    """
    own = tempfile.mkdtemp(prefix="vboot-test-runtime-")
    os.environ["XDG_RUNTIME_DIR"] = own
    os.environ["XDG_STATE_HOME"] = f"{own}/state"  # it is read, too
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
