"""The program `vboot`, also as `python -m builder`."""

import signal
import sys

INTERRUPTED = 130
"""As a shell reports a program that SIGINT ended."""


def main() -> int:
    """Import and run the command line. Ctrl-C ends it at any moment without a traceback."""
    # While modules are imported there is nothing to tidy up, and nobody to catch an exception.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from cli import main as run

    try:
        return run()
    except KeyboardInterrupt:  # once more, while the first was being reported
        return INTERRUPTED
    finally:
        # Nor is there anybody while the interpreter ends.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
